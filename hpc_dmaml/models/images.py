"""Check that samples are images, channels first."""

COLOURS = (1, 3, 4)
"""Numbers of channels of pictures."""


def check_images(model: str, sample_shape: tuple[int, ...]) -> None:
    """Raise ValueError where the samples for a model are not (C, H, W), with what would make them so."""
    needs = f"model {model} needs images (C, H, W), but the task's samples have shape {sample_shape}"
    if len(sample_shape) == 2:
        height, width = sample_shape
        raise ValueError(
            f"{needs}: for images without channels use x.reshape(-1, 1, {height}, {width}), else --model MLP"
        )
    if len(sample_shape) != 3:
        raise ValueError(f"{needs}: try --model MLP")
    if sample_shape[-1] in COLOURS and not set(sample_shape[:2]) & set(COLOURS):  # (64, 4, 4) are maps of features
        raise ValueError(f"{needs}, which looks like (H, W, C): use x.transpose(0, 3, 1, 2)")
