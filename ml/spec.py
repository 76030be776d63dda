"""RunSpec: the one description of a run.

The form's bounds, the API's validation, the stored JSON and the command line's flags all come from this
class. It holds no path, no URL and no code, and imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ml.catalog import DATASETS, MODELS, OPTIMIZERS, SCHEDULES
from ml.sizes import Sizes, count_images

MAX_STEPS = 100_000_000
MAX_DEVICES = 16  # of one host
TAKES_MOMENTUM = ("sgd", "muon")
STORED = {"stored": True}  # the validation context of a spec that was accepted once
_ON_OFF = {True: "on", False: "off"}


def _one_of(value: str, what: str, names: list[str]) -> str:
    if value not in names:
        raise ValueError(f"unknown {what} {value!r}; choose one of {', '.join(names)}")
    return value


class RunSpec(BaseModel):
    """What to train: closed, bounded, flat. Every field has a default; unknown fields are refused.

    Numbers are strict: a string or a boolean is no number, NaN and infinity are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    model: str = Field(
        "lenet",
        title="Model",
        description="The architecture to train.",
        max_length=64,
        json_schema_extra={"enum": list(MODELS)},
    )
    dataset: str = Field(
        "mnist",
        title="Dataset",
        description="The images to learn from: built in, or registered by who runs the server.",
        max_length=64,
        json_schema_extra=lambda schema: schema.update(enum=list(DATASETS)),  # as registered at the moment
    )
    train_size: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        title="Training images",
        description="How many training images to use, drawn by the seed; empty for all.",
    )
    val_size: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        title="Validation images",
        description="How many validation images to evaluate on, the same ones for every run; empty for all.",
    )
    val_from: Literal["test", "train"] = Field(
        "test",
        title="Validate on",
        description="Held-out training images, a tenth unless you say how many, are for tuning and early stopping.",
    )
    shift: int = Field(
        0,
        ge=0,
        le=8,
        title="Random shift",
        description="Moves each training image by up to so many pixels, anew in every epoch.",
    )
    flip: bool = Field(
        False,
        title="Random mirror",
        description="Mirrors every second training image at random; right for clothes, wrong for digits.",
    )
    cutout: int = Field(
        0,
        ge=0,
        le=16,
        title="Cutout",
        description="Blanks a square of so many pixels at a random place of each training image.",
    )
    epochs: int = Field(3, ge=1, le=10_000, title="Epochs", description="Passes over the training images.")
    batch_size: int = Field(64, ge=1, le=65_536, title="Batch size", description="Images per optimizer step.")
    lr: float = Field(
        0.01, gt=0, le=10, title="Learning rate", description="Peak learning rate; the schedule may lower it."
    )
    optimizer: str = Field(
        "sgd",
        title="Optimizer",
        description="The update rule.",
        max_length=64,
        json_schema_extra={"enum": list(OPTIMIZERS)},
    )
    momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Momentum",
        description="For SGD, where 0 is plain SGD, and for Muon, where 0.95 is usual; the others ignore it.",
    )
    nesterov: bool = Field(
        False, title="Nesterov", description="Momentum that looks ahead; for SGD and Muon with momentum."
    )
    weight_decay: float = Field(
        0.0, ge=0, le=1, title="Weight decay", description="Pulls weights toward zero."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Label smoothing",
        description="Share of the target that all classes divide equally; raises the training loss.",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        le=1e6,
        title="Gradient clipping",
        description="Largest norm of the whole gradient; empty for no limit.",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Averaged weights",
        description="Evaluates a running average of the weights with this decay per step (0.999 is usual); 0 for none.",
    )
    schedule: str = Field(
        "constant",
        title="Schedule",
        description="How the learning rate moves over the run.",
        max_length=64,
        json_schema_extra={"enum": list(SCHEDULES)},
    )
    warmup_epochs: float = Field(
        0.0,
        ge=0,
        le=1_000,
        title="Warm-up",
        description="Epochs in which the learning rate rises from zero before the schedule begins; 0.5 is half of one.",
    )
    seed: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        title="Seed",
        description="Fixes initial weights, order and subset: same seed, same run.",
    )
    input_scaling: Literal["standardize", "unit", "raw"] = Field(
        "standardize",
        title="Input scaling",
        description="Pixels to mean 0 and deviation 1, to 0..1, or left at 0..255.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=10_000,
        title="Early stopping",
        description="Ends the run after so many epochs without a better validation result; empty to train to the end.",
    )
    patience_metric: Literal["loss", "accuracy"] = Field(
        "loss",
        title="Stop by",
        description="Which validation result early stopping looks at.",
    )
    grad_norm: Literal["off", "total", "layers"] = Field(
        "off",
        title="Gradient norm",
        description="Records how long each step's gradient is before clipping: of all weights, or of each layer too.",
    )
    on_nan: Literal["fail", "continue"] = Field(
        "fail",
        title="When the loss is no number",
        description="Fail: the run ends there. Continue: that step changes no weight, and training goes on.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        title="Precision",
        description="Number format of the arithmetic; auto is bf16 for convolutional nets larger than LeNet where the "
        "hardware has it, else fp32.",
    )
    channels_last: Literal["auto", "on", "off"] = Field(
        "auto",
        title="Channels last",
        description="Memory order of the images; auto is on with bf16, which is fast in no other.",
    )
    fused: Literal["auto", "on", "off"] = Field(
        "auto",
        title="Fused optimizer",
        description="Updates all weights in one pass; auto is on where no digit of fp32 changes by it, and with bf16.",
    )
    compile: Literal["auto", "off", "inductor", "graph"] = Field(
        "auto",
        title="Compilation",
        description="Inductor compiles the model first, which takes up to a minute; graph replays a step as one CUDA "
        "graph; auto is off.",
    )
    deterministic: Literal["auto", "on", "off"] = Field(
        "auto",
        title="Deterministic",
        description="The same seed gives the same bits on a GPU too; off allows faster kernels there; auto is on.",
        json_schema_extra=lambda schema: schema.update(
            anyOf=[
                {"type": schema.pop("type"), "enum": schema.pop("enum")},
                {"type": "boolean", "deprecated": True},
            ]
        ),
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", title="Device", description="Auto takes the slot's GPU where there is one."
    )
    devices: int = Field(
        1,
        ge=1,
        le=MAX_DEVICES,
        title="Devices",
        description="How many GPUs of one host share each batch, or processes where there are none so many.",
    )
    model_options: dict[str, Any] = Field(
        default_factory=dict, title="Model options", description="The chosen model's own options."
    )

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        return _one_of(value, "model", list(MODELS))

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, value: str) -> str:
        return _one_of(value, "dataset", list(DATASETS))

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, value: str) -> str:
        return _one_of(value, "optimizer", list(OPTIMIZERS))

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, value: str) -> str:
        return _one_of(value, "schedule", list(SCHEDULES))

    @field_validator("deterministic", mode="before")
    @classmethod
    def _once_a_boolean(cls, value: Any) -> Any:
        return _ON_OFF[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        options = MODELS[self.model].options
        try:
            parsed = options.model_validate(self.model_options)
        except ValidationError as error:
            # Re-raised with the option's place, so that the form can put the message beside its field.
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [
                    {
                        "type": e["type"],
                        "loc": ("model_options", *e["loc"]),
                        "input": e["input"],
                        "ctx": e.get("ctx", {}),
                    }
                    for e in error.errors()
                ],
            ) from None
        # Stored whole, so that a later change of a default cannot change what this run was.
        object.__setattr__(self, "model_options", parsed.model_dump())
        self._check_sizes()
        self._check_model()
        self._check_optimisation()
        if info.context is not STORED:
            self._check_arithmetic()
        if self.total_steps > MAX_STEPS:
            raise _field_error(
                "epochs",
                self.epochs,
                f"that makes {self.total_steps} steps, over {MAX_STEPS}; lower the epochs or raise the batch"
                " size",
            )
        return self

    def _check_sizes(self) -> None:
        data = DATASETS[self.dataset]
        most = {"train_size": data.train_size, "val_size": data.val_size}
        if self.val_from == "train":
            most = {"val_size": data.train_size - 1, "train_size": data.train_size - self.sizes.val}
        for name, have in most.items():
            asked = getattr(self, name)
            if asked is not None and asked > have:
                raise _field_error(
                    name,
                    asked,
                    f"{data.title} has {have} images there; ask for at most {have} or leave it empty",
                )
        if self.sizes.train < 1:
            raise _field_error("val_from", self.val_from, f"{data.title} has too few images; choose test")

    def _check_model(self) -> None:
        model, data = MODELS[self.model], DATASETS[self.dataset]
        if min(data.shape[1:]) < model.smallest:
            least, have = f"{model.smallest}x{model.smallest}", f"{data.shape[1]}x{data.shape[2]}"
            raise _field_error(
                "model",
                self.model,
                f"{model.title} needs images of at least {least}, and those of {data.title} are {have}; choose a "
                "model that takes smaller ones, such as mlp or resnet8",
            )
        if model.pretrained and self.input_scaling != "standardize":
            raise _field_error(
                "input_scaling",
                self.input_scaling,
                f"the weights of {model.title} expect ImageNet's normalisation; leave this at standardize",
            )

    def _check_optimisation(self) -> None:
        if self.devices > self.batch_size:
            raise _field_error(
                "devices",
                self.devices,
                f"a batch of {self.batch_size} images cannot be shared by so many; raise the batch size",
            )
        if self.nesterov and self.optimizer in ("sgd", "muon") and self.momentum == 0:
            raise _field_error(
                "nesterov", True, "Nesterov needs momentum; set momentum, 0.9 is usual, or turn nesterov off"
            )
        if self.warmup_epochs and self.schedule == "onecycle":
            raise _field_error(
                "warmup_epochs", self.warmup_epochs, "one-cycle has a warm-up of its own; leave this at 0"
            )
        if self.warmup_epochs >= self.epochs:
            raise _field_error(
                "warmup_epochs",
                self.warmup_epochs,
                f"must be shorter than the training of {self.epochs} epochs",
            )

    def _check_arithmetic(self) -> None:
        """What no machine can do, and what would be without effect. `ml.numerics` knows what one machine cannot do."""
        if self.compile == "graph":
            self._check_graph()
        if self.nesterov and self.optimizer not in TAKES_MOMENTUM:
            raise _field_error(
                "nesterov",
                True,
                f"{OPTIMIZERS[self.optimizer].title} has no such momentum; turn nesterov off, or choose sgd or muon",
            )
        if self.fused == "on" and self.optimizer == "muon":
            raise _field_error("fused", self.fused, "Muon has no fused form; leave this at auto or off")

    def _check_graph(self) -> None:
        """A CUDA graph replays one step of one GPU: nothing in it may wait for, or be decided by, the host."""
        if self.device == "cpu":
            why = "CUDA graphs need a GPU; set device to auto or cuda, or choose auto or off here"
        elif self.devices > 1:
            why = "a step that waits for other GPUs is not recorded; set devices to 1, or choose auto or off here"
        elif self.optimizer == "muon":
            why = "Muon cannot be recorded in a CUDA graph; choose another optimizer, or auto or off here"
        elif self.on_nan == "continue":
            why = "a CUDA graph cannot skip an update; set on_nan to fail, or choose auto or off here"
        else:
            return
        raise _field_error("compile", self.compile, why)

    @classmethod
    def read_stored(cls, fields: Mapping[str, Any]) -> Self:
        """A spec that was accepted once: combinations that are refused since then go on meaning what they did."""
        return cls.model_validate(dict(fields), context=STORED)

    @property
    def gpus(self) -> int:
        """How many GPUs of one host the run cannot do without."""
        return self.devices if self.device == "cuda" else 0

    @property
    def sizes(self) -> Sizes:
        """How many images are trained on and validated on."""
        asked = {"train_size": self.train_size, "val_size": self.val_size, "val_from": self.val_from}
        return count_images(DATASETS[self.dataset], asked)

    @property
    def images_per_epoch(self) -> int:
        return self.sizes.train

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch; the last batch may be smaller than the others."""
        return -(-self.images_per_epoch // self.batch_size)

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup_epochs * self.steps_per_epoch)

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


def in_todays_words(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored spec, unchecked, with each value as it would be stored now: `deterministic` was a boolean once."""
    value = stored.get("deterministic")
    return {**stored, "deterministic": _ON_OFF[value]} if isinstance(value, bool) else dict(stored)


def _field_error(name: str, value: Any, message: str) -> ValidationError:
    from pydantic_core import PydanticCustomError

    error = PydanticCustomError("value_error", message)
    return ValidationError.from_exception_data("RunSpec", [{"type": error, "loc": (name,), "input": value}])
