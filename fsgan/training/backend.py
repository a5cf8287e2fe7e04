"""One training step for Keras' three backends: gradients, compilation, devices.

Keras has no gradients outside of `fit`, so each backend has two functions here: one
takes a gradient step, one compiles a whole step of training. TensorFlow compiles to a
graph, JAX to XLA, PyTorch runs as it is written.
"""

import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import keras
import numpy as np
from keras import KerasTensor as Tensor
from keras import ops

LossFunction = Callable[[], tuple[Tensor, dict[str, Tensor]]]
Step = Callable[..., dict[str, Tensor]]
CompiledStep = Callable[[Sequence[tuple]], dict[str, Tensor]]


def minimize(
    loss_function: LossFunction,
    variables: Sequence[keras.Variable],
    optimizer: keras.Optimizer,
) -> dict[str, Tensor]:
    """Moves the variables one step down the gradient of a loss.

    To be called in a step of `compile_step`. The loss function may call `minimize` for
    other variables; no gradient flows through their update. A variable that the loss
    does not depend on has a gradient of zero. In a branch of `keras.ops.cond` nothing
    may be assigned.

    Args:
        loss_function: Returns the loss, a float32 scalar, and its terms, float32
            scalars by name.
        variables: What to move; the optimizer is built for them.
        optimizer: Turns gradients into updates. A `LossScaleOptimizer` scales the loss;
            where a gradient is not finite it halves the scale and updates nothing else.

    Returns:
        The terms, as of before the update.
    """
    return _of_backend(_MINIMIZE)(loss_function, variables, optimizer)


def compile_step(step: Step, variables: Iterable[keras.Variable]) -> CompiledStep:
    """Compiles a step of training to be taken once or several times in one call.

    A graphics card then goes from step to step without a word from the processor. It is
    compiled once for each number of steps and combination of shapes and dtypes. Values
    may change from call to call without cost, Python values that `step` closes over are
    frozen.

    With a `keras.distribution.DataParallel` in force, on JAX alone, the batch is spread
    over its devices, all of one process. It has to be in force before the first
    variable is created.

    Args:
        step: From any nesting of tuples, lists and dicts of tensors to scalars by name.
        variables: All that the step may read or write: of networks (trainable or not),
            optimizers and seed generators.

    Returns:
        The compiled steps, from a sequence with the arguments of each, of the same
        nesting of NumPy arrays, to the scalars of all by name, (steps,) each. They are
        still being computed, on a graphics card: to look at one is to wait for it.
        Arrays of one dimension or more are batches along their first one. On JAX a call
        invalidates the arrays that were the variables' values.

    Raises:
        ValueError: Keras runs on a backend that cannot train, work is spread over
            devices on another backend than JAX or over processes, or, from the compiled
            step, a batch does not divide among the devices or, on JAX, `variables`
            lacks one.
    """
    compiler = _of_backend(_COMPILE)
    if keras.backend.backend() != "jax" and _is_distributed():
        raise ValueError(
            "training on several devices needs Keras on JAX: set KERAS_BACKEND=jax "
            f"before Keras is imported, it is {keras.backend.backend()!r}, and call "
            "keras.distribution.set_distribution(keras.distribution.DataParallel()), "
            "or train on one device"
        )
    return compiler(step, list(variables))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts an interrupt (Ctrl-C) off to the end of the block.

    In the midst of a step it would leave some variables updated, others not. A process
    that ignores interrupts, as those that a shell starts in the background, goes on
    ignoring them.

    Yields:
        Nothing.

    Raises:
        KeyboardInterrupt: At the end of the block, where there was one.
    """
    handler = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    # In another thread no interrupt arrives; None is a handler that is not Python's.
    if not in_main_thread or handler in (signal.SIG_IGN, None):
        yield
        return
    received = []
    signal.signal(signal.SIGINT, lambda *event: received.append(event))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if received:
        signal.raise_signal(signal.SIGINT)


def _of_backend(functions: dict[str, Callable]) -> Callable:
    backend = keras.backend.backend()
    if backend not in functions:
        raise ValueError(
            f"training needs Keras on tensorflow, jax or torch, not on {backend!r}: "
            "set KERAS_BACKEND before Keras is imported"
        )
    return functions[backend]


def _is_distributed() -> bool:
    """Whether work is to be spread over devices, by Keras or, outside JAX, another."""
    if keras.distribution.distribution() is not None:
        return True
    if keras.backend.backend() == "torch":
        return int(os.environ.get("WORLD_SIZE", 1)) > 1  # as torchrun sets it
    import tensorflow as tf

    return tf.distribute.has_strategy()


def _to_tensors(arguments: tuple) -> tuple:
    """Turns arrays into tensors; numbers too, which would be compiled in."""
    return keras.tree.map_structure(ops.convert_to_tensor, arguments)


def _stack(trees: Sequence):
    """One nesting of tensors from several alike, stacked along a new first axis."""
    return keras.tree.map_structure(lambda *tensors: ops.stack(tensors), *trees)


def _minimize_tensorflow(loss_function, variables, optimizer):
    import tensorflow as tf

    values = [variable.value for variable in variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        loss, logs = loss_function()
        loss = optimizer.scale_loss(loss)
    gradients = tape.gradient(loss, values, unconnected_gradients="zero")
    optimizer.apply(gradients, variables)
    return logs


def _compile_tensorflow(step, variables):
    import tensorflow as tf

    compiled = tf.function(step, autograph=False)

    @tf.function(autograph=False)
    def steps(calls):
        if len(calls) == 1:
            return _stack([compiled(*calls[0])])
        logs = compiled.get_concrete_function(*calls[0]).structured_outputs
        return tf.map_fn(
            lambda arguments: compiled(*arguments),
            _stack(calls),
            fn_output_signature={name: log.dtype for name, log in logs.items()},
            parallel_iterations=1,
        )

    return lambda calls: steps([_to_tensors(arguments) for arguments in calls])


def _minimize_torch(loss_function, variables, optimizer):
    import torch

    values = [variable.value for variable in variables]
    loss, logs = loss_function()
    gradients = torch.autograd.grad(
        optimizer.scale_loss(loss), values, allow_unused=True, materialize_grads=True
    )
    with torch.no_grad():
        optimizer.apply(gradients, variables)
    return {name: value.detach() for name, value in logs.items()}


def _compile_torch(step, variables):
    return lambda calls: _stack([step(*_to_tensors(x)) for x in calls])


# JAX transforms functions without side effects. While a step is traced, a scope stands
# in for the variables: it hands out their traced values and catches what is assigned.
_traced_variables: ContextVar[list[keras.Variable]] = ContextVar("traced_variables")


class _Scope(keras.StatelessScope):
    """Refuses variables whose value would be frozen into the compiled step."""

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if value is None:
            raise ValueError(
                f"the step uses {variable.path!r}, which is not among its variables"
            )
        return value


def _minimize_jax(loss_function, variables, optimizer):
    import jax

    everything = _traced_variables.get()

    def loss_of(values):
        _assign(variables, values)
        loss, logs = loss_function()
        after = [variable.value for variable in everything]
        return optimizer.scale_loss(loss), (OrderedDict(logs), after)

    values = [variable.value for variable in variables]
    gradients, (logs, after) = jax.grad(loss_of, has_aux=True)(values)
    # What the loss function assigned must leave its trace as a result.
    _assign(everything, after)
    # An outer loss would be differentiated through this update. A loss scale updates in
    # a branch, where nothing may be assigned.
    updated, state = optimizer.stateless_apply(
        [variable.value for variable in optimizer.variables],
        jax.lax.stop_gradient(gradients),
        [variable.value for variable in variables],
    )
    _assign([*variables, *optimizer.variables], [*updated, *state])
    return logs


def _compile_jax(step, variables):
    import jax

    distribution = keras.distribution.distribution()
    if distribution is not None and jax.process_count() > 1:
        raise ValueError(
            "training takes one process, which uses all devices of its machine: leave "
            "out keras.distribution.initialize"
        )

    def pure_step(values, arguments):
        token = _traced_variables.set(variables)
        try:
            with _Scope(list(zip(variables, values, strict=True))):
                logs = step(*arguments)
                # JAX would sort the keys of a plain dict.
                return [variable.value for variable in variables], OrderedDict(logs)
        finally:
            _traced_variables.reset(token)

    def pure_steps(values, calls):
        if len(calls) == 1:
            values, logs = pure_step(values, calls[0])
            return values, _stack([logs])
        return jax.lax.scan(pure_step, values, _stack(calls))

    compiled = jax.jit(pure_steps, donate_argnums=0)

    def call(calls):
        if distribution is not None:
            calls = keras.tree.map_structure(
                lambda array: _shard(np.asarray(array), distribution), calls
            )
        values, logs = compiled([variable.value for variable in variables], calls)
        _assign(variables, values)
        return logs

    return call


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _shard(array, distribution):
    """Spreads a batch over the devices; a scalar goes to all of them by itself."""
    if array.ndim == 0:
        return array
    devices = distribution.device_mesh.devices.size
    if len(array) % devices:
        raise ValueError(
            f"the batch size must be a multiple of the {devices} devices that share a "
            f"batch, got {len(array)}"
        )
    layout = distribution.get_data_layout(array.shape)
    return keras.distribution.distribute_tensor(array, layout)


_MINIMIZE = {
    "tensorflow": _minimize_tensorflow,
    "jax": _minimize_jax,
    "torch": _minimize_torch,
}
_COMPILE = {
    "tensorflow": _compile_tensorflow,
    "jax": _compile_jax,
    "torch": _compile_torch,
}
