"""Models, one family a file. ``MODELS`` finds them: ``model(shape, classes, units, **options) -> nn.Module``."""

from bnexp.models import cnn, lenet, mlp, plain, resmlp, resnet, rnn, vit
from bnexp.models.unit import ACTIVATIONS, MODELS, Unit, Units

__all__ = ["ACTIVATIONS", "MODELS", "Unit", "Units", "cnn", "lenet", "mlp", "plain", "resmlp", "resnet", "rnn", "vit"]
