"""A trained model as a file that other programs load: safetensors or ONNX."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path

import torch

from bnexp.config.extras import extra
from bnexp.config.schema import to_dict
from bnexp.experiment.trained import Trained
from bnexp.runs.storage import write_atomically


def to_safetensors(trained: Trained, path: Path) -> None:
    """Write parameters and buffers by name; the config, the step and the scale of pixels are in the metadata.

    Raises:
        ValueError: the package safetensors is not installed.
        OSError: the file cannot be written.
    """
    safetensors = extra("safetensors.torch", "safetensors")
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in trained.model.state_dict().items()}
    write_atomically(path, safetensors.save(state, metadata=about(trained)))


def to_onnx(trained: Trained, path: Path) -> None:
    """Write the model in evaluation mode: images [N, ...] as ``Trained.data`` has them -> logits [N, K], for any N.

    Raises:
        ValueError: a package is not installed, or the model cannot be written as ONNX.
        OSError: the file cannot be written.
    """
    onnx = extra("onnx", "onnx")
    extra("onnxscript", "onnx")
    x = trained.data.test.x[:2]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
            warnings.simplefilter("ignore")  # of the exporter's own libraries
            program = torch.onnx.export(
                trained.model,
                (x,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises different errors for different operations
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error  # the exporter wraps the reason
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"--to onnx: this model cannot be written as ONNX ({type(error).__name__}: {reason})"
        ) from None
    assert program is not None
    model = program.model_proto
    (images,) = model.graph.input
    if not images.type.tensor_type.shape.dim[0].dim_param:
        raise ValueError(f"--to onnx: this model would take {len(x)} images at a time, and no other number")
    onnx.helper.set_model_props(model, about(trained))
    write_atomically(path, model.SerializeToString())


def about(trained: Trained) -> dict[str, str]:
    """What a reader of the file must know: the config, the step, and by what pixels in [0, 1] were scaled."""
    return {
        "config": json.dumps(to_dict(trained.config)),
        "step": str(trained.step),
        "pixel_mean": json.dumps(trained.data.mean),
        "pixel_std": json.dumps(trained.data.std),
    }


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Keep the exporter's messages away from the user, who gets one line."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
