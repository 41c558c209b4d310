"""Comparisons of two computations of one training step that add the same numbers in another order.

Two trajectories are compared only where both are equal to the bit by construction: the same
kernels on the same shapes. Elsewhere gradients, or what follows from them without a division, are:
AdamW divides a gradient by its own size, so an entry whose gradient is rounding alone moves by a
whole step, and which way differs between processors, thread counts and kernels.
"""

from collections.abc import Mapping

from torch import Tensor

UNIT = 2.0**-24
"""Relative error of one rounding to fp32."""
STEP_ROUNDING = 2000 * UNIT
"""Of a gradient, relative to the largest entry of all: a sum of n products is off by at most n
roundings of the sum of their magnitudes, whatever its order (Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., section 3.1), and a step of the small models of these tests is a
chain of some 40 products of 32 to 96 terms."""


def assert_same_gradients(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Equal up to rounding, on the scale of the largest entry of all."""
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 0, "nothing was at stake"
    for name, value in expected.items():
        error = float((found[name].double() - value.double()).abs().max())
        assert error <= STEP_ROUNDING * largest, (name, error / largest)


def assert_same_sgd_step(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    rate: float,
) -> None:
    """Two states that are one step of SGD away from `start`, equal up to rounding."""
    assert found.keys() == expected.keys()
    moved = {name: (value - start[name]).abs() for name, value in expected.items()}
    largest = max(float(value.max()) for value in moved.values())
    assert largest > 1e-3 * rate, "nothing was at stake"
    for name, value in expected.items():
        # The gradients' rounding, and that of the states themselves, which are rounded once each.
        limit = STEP_ROUNDING * largest + 2 * UNIT * (start[name].abs() + moved[name])
        apart = (found[name] - value).abs()
        assert bool((apart <= limit).all()), (name, float((apart - limit).max()))


def assert_same_moments(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Adam's moments and step counts after one step from equal moments.

    The moments are linear in the gradient and in its square, so they agree as gradients do.
    """
    assert found.keys() == expected.keys()
    for entry, roundings in (("exp_avg", 1), ("exp_avg_sq", 2)):
        names = [name for name in expected if entry in name.replace("/", ".").split(".")]
        assert names, f"no {entry}"
        largest = max(float(expected[name].abs().max()) for name in names)
        assert largest > 0
        for name in names:
            error = float((found[name] - expected[name]).abs().max())
            assert error <= roundings * STEP_ROUNDING * largest, (name, error / largest)
    for name in expected:
        if name.endswith("step"):
            assert float(found[name]) == float(expected[name])


def assert_adam_step(
    start: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    moments: Mapping[str, Mapping[str, Tensor]],
    rate: float,
) -> None:
    """A state is where Adam goes from `start` with the moments that it says it has.

    `x - rate m / (1 - 0.9^t) / (sqrt(v / (1 - 0.999^t)) + 1e-8)` in fp64. With the moments given
    there is nothing to amplify: torch takes some ten roundings of the step and one of the state.
    """
    for name, value in state.items():
        m, v = (moments[name][entry].double() for entry in ("exp_avg", "exp_avg_sq"))
        steps = float(moments[name]["step"])
        step = rate * m / (1 - 0.9**steps) / ((v / (1 - 0.999**steps)).sqrt() + 1e-8)
        apart = (value.double() - (start[name].double() - step)).abs()
        limit = 20 * UNIT * step.abs() + 2 * UNIT * (start[name].abs() + step.abs())
        assert bool((apart <= limit).all()), (name, float((apart - limit).max()))


def by_name(carried: Mapping[str, Tensor], names: list[str]) -> dict[str, dict[str, Tensor]]:
    """Moments that are carried as `<index>.<entry>` or `<name>/<entry>`, by tensor name."""
    moments: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key, value in carried.items():
        name, slash, entry = key.rpartition("/")
        if not slash:
            index, _, entry = key.partition(".")
            name = names[int(index)]
        moments[name][entry] = value
    return moments
