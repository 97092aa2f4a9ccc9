"""What the report of the claims says besides its numbers."""

LEAD = (
    "What is said about normalization in lectures, articles and papers, each as an experiment that was declared before "
    "it was run: arms, budget, seeds, and the smallest effect that would matter. Most such sayings are true under "
    "conditions only, so that a verdict belongs to a test and a regime, never to a saying as a whole."
)

PROTOCOL = (
    "The unit of replication is the seed. It sets initial weights, order of batches, augmentation and noise; arms with "
    "equal seeds start alike in all layers that they share and see the same batches, and are compared seed by seed.",
    "The estimate is the mean of the differences with a 95 % t-interval; beside it stand a BCa bootstrap interval as a "
    "check, the exact two-sided sign-flip p and the effect size d_z, mean over standard deviation.",
    "Ratios (steps, learning rates, losses) are compared as logarithms and shown as geometric-mean ratios.",
    "Each test declares the smallest effect of interest. Supported: the interval excludes 0 and the mean reaches that "
    "effect. Contradicted: the whole interval stays below it, reversed if it also excludes 0 on the other side, else "
    "negligible. Inconclusive: everything else, with the number of seeds that would give 80 % power.",
    "A claim that there is no difference is supported if the interval lies within plus and minus the smallest effect "
    "(two one-sided tests), contradicted if it lies outside; its p is that of the two one-sided tests.",
    "No verdict is given with fewer than six seeds: with five, the smallest possible sign-flip p is 0.0625.",
    "Regimes: equal hyperparameters for all arms, and each arm at its own best. Tuning uses other seeds, and images "
    "set apart from the training set; verdicts use fresh seeds and the test set.",
    "A best value on the edge of its grid makes a verdict inconclusive (grid edge), as a better one may lie outside; "
    "so does a largest workable value at the end of its axis where a longer axis could turn the verdict.",
    "A run diverges when its loss is not finite or runs away. It counts as chance for accuracies and as censored for "
    "steps to a target; how many did is printed, and compared by McNemar's exact test.",
    "Steps to a target are censored at the budget: the share that reached it is printed, and ratios are over the seeds "
    "where all arms did.",
    "Verdicts are those of single tests at 95 %. The column p (Holm) adjusts over all tests of this report.",
    "The finite test set adds an error that arms with equal seeds share; its standard error is printed as the limit of "
    "what can be said beyond these test images.",
)

ARTICLES = (
    "The source articles are numbered: 000, notes on a lecture of Dive into Deep Learning about batch norm; 001, a "
    "walk through the batch norm paper; 002, an overview; 003, course notes on tuning and batch norm; 004, "
    "initialization, batch norm and group norm. Where they are wrong, the experiments use what is correct:"
)

ERRATA = (
    (
        "001",
        "the gain starts as the variance of the batch",
        "gain = sqrt(var + eps) and bias = mean restore the input; usual is gain 1, bias 0",
    ),
    ("003", "variance = (1/m) sum(z_i - mean^2)", "(1/m) sum (z_i - mean)^2"),
    ("003", "output = gain times z_norm, and sums over n divided by m", "gain * z_norm + bias, with one m throughout"),
    (
        "004",
        "Kaiming's standard deviation is 2/sqrt(n)",
        "sqrt(2/n); the other one multiplies the signal by sqrt(2) a layer",
    ),
    (
        "004",
        "Kaiming is PyTorch's default",
        "the default is U(-1/sqrt(n), 1/sqrt(n)), a standard deviation of 0.577/sqrt(n)",
    ),
    ("004", "whitening makes data Gaussian", "it takes out correlations and makes variances 1; the shape stays"),
    (
        "002",
        "recurrent nets need batch norm parameters of their own at each time step",
        "statistics of their own; gain and bias are shared",
    ),
    ("000", "weight decay divides the weights", "w <- (1 - lr * decay) w - lr * gradient"),
    ("000", "of two curves, the former and the latter", "the other way round"),
)
