"""The loss a configuration names: its arguments, checked before anything runs."""

import inspect
from collections.abc import Sequence
from contextlib import suppress
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from hashfast import losses
from hashfast.data import Splits
from hashfast.hashing.model import HashModel
from hashfast.losses.quantization import QuantizationOptions

if TYPE_CHECKING:
    from hashfast.hashing.config import TrainConfig

# Arguments that have a setting of their own.
_SETTINGS = {"bank_size", "quantization", "quantization_weight"}


def check_method(method: str, options: Sequence[str], memory_bank: bool | None) -> None:
    """Raise ValueError for an unknown method, arguments it does not have, or a bank it cannot use.

    The message lists what there is.
    """
    read_options(method, options)
    if memory_bank and find_method(method).bank == "none":
        able = [name for name, cls in losses.METHODS.items() if cls.bank != "none"]
        raise ValueError(
            f"{method} compares no pairs and has no memory bank: leave memory_bank out, or choose "
            f"{', '.join(able)}"
        )


def find_method(name: str) -> type[losses.HashLoss] | type[losses.UnsupervisedLoss]:
    """The hashing loss of that name. Raises ValueError listing them."""
    known: dict[str, Any] = {**losses.METHODS, **losses.UNSUPERVISED}
    if name not in known:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(known)}")
    return known[name]


def read_options(method: str, options: Sequence[str]) -> dict[str, Any]:
    """Arguments of a method from texts name=value; see `read_arguments`."""
    return read_arguments(find_method(method), options, method)


def read_arguments(loss: type, options: Sequence[str], method: str) -> dict[str, Any]:
    """Arguments of a loss, called `method`, from texts name=value, where a value is a YAML scalar.

    Raises ValueError, listing the arguments the method has, for any it has not, for values of
    another type, and for names given twice.
    """
    known = _arguments(loss)
    read: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise ValueError(f"{option!r} is no argument of {method}: write name=value")
        if name not in known:
            raise ValueError(
                f"{method} has no argument {name!r}; its arguments: {', '.join(known) or 'none'}"
            )
        if name in read:
            raise ValueError(f"{method} got {name} twice: {' and '.join(options)}")
        try:
            read[name] = _read(text, known[name])
        except ValueError as error:
            raise ValueError(f"{method} got {name}={text}; {error}") from None
    return read


def arguments(loss: type) -> dict[str, Any]:
    """Names and defaults of the arguments that `read_arguments` takes for a loss."""
    parameters = inspect.signature(loss.__init__).parameters  # type: ignore[misc]
    defaults = {"quantization_on": "raw"}  # of the options that every method takes
    return {
        name: parameters[name].default if name in parameters else defaults[name]
        for name in _arguments(loss)
    }


def build_criterion(config: "TrainConfig", splits: Splits) -> losses.HashLoss:
    """The supervised loss of a run.

    Raises ValueError for a method without labels, and for data of fewer than two classes.
    """
    if config.method not in losses.METHODS:
        raise ValueError(
            f"{config.method} learns without labels, and here is one needed that learns from "
            f"them: {', '.join(losses.METHODS)}"
        )
    if splits.num_classes < 2:
        raise ValueError(
            f"{config.method} learns from classes and {splits.name} has {splits.num_classes}; "
            "put the pictures of each class in a folder of its own, or choose a method that needs "
            f"no classes: {', '.join(losses.UNSUPERVISED)}"
        )
    method = losses.METHODS[config.method]
    given = read_options(config.method, config.options)
    if method.bank != "none":
        wanted = method.bank == "default" if config.memory_bank is None else config.memory_bank
        given["bank_size"] = len(splits.train) if wanted else None
    return method(splits.num_classes, config.bits, **_quantization(config), **given)


def build_unsupervised(config: "TrainConfig", model: HashModel) -> losses.UnsupervisedLoss:
    """The loss of a run without labels, for the layers of this model."""
    method = losses.UNSUPERVISED[config.method]
    given = read_options(config.method, config.options)
    widths = {
        "num_features": model.backbone.num_features,
        "num_hidden": getattr(model.head, "num_hidden", None),
    }
    taken = inspect.signature(method.__init__).parameters
    given |= {name: width for name, width in widths.items() if name in taken}
    return method(config.bits, **_quantization(config), **given)


def _quantization(config: "TrainConfig") -> dict[str, Any]:
    return {
        "quantization": config.quantization,
        "quantization_weight": config.quantization_weight,
    }


def _arguments(loss: type) -> dict[str, Any]:
    """Names and types of the keyword arguments of a loss that can be written as text."""
    init = loss.__init__  # type: ignore[misc]
    hints = get_type_hints(init)
    parameters = inspect.signature(init).parameters.values()
    known = {p.name: hints.get(p.name, Any) for p in parameters if p.kind == p.KEYWORD_ONLY}
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        known |= get_type_hints(QuantizationOptions)
    return {
        name: hint
        for name, hint in known.items()
        if name not in _SETTINGS and any(map(_writable, _choices(hint)))
    }


def _choices(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _writable(hint: Any) -> bool:
    return hint in (int, float, str, bool) or get_origin(hint) is Literal


def _read(text: str, hint: Any) -> Any:
    """`text` as the first of the types of `hint` that it fits; ValueError where it fits none."""
    scalar = _scalar(text)
    for choice in _choices(hint):
        if get_origin(choice) is Literal:
            named = {str(value): value for value in get_args(choice)}
            if text in named:
                return named[text]
        elif choice is str:
            return text
        elif choice is float and type(scalar) in (int, float):
            return float(scalar)
        elif type(scalar) is choice:
            return scalar
    raise ValueError(f"expected {inspect.formatannotation(hint)}")


def _scalar(text: str) -> Any:
    """A YAML scalar; 1e-3, which YAML 1.1 takes for text, is a number all the same."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value
