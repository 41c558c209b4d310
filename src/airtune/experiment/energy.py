"""From the section `energy` to a planner of speed and power, where method and cell allow it."""

import math
from dataclasses import replace

from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import DeviceProfile, known_idle_power_w, power_at
from airtune.errors import InputError
from airtune.federated.checks.capabilities import part_name
from airtune.federated.energy_planner import EnergyPlanner
from airtune.federated.method import Method

_REMEDY = "leave out the section energy"


def check_energy(config: ExperimentConfig) -> None:
    """Refuse what a plan of energy cannot be made for, before the model is loaded."""
    if not config.energy.is_planned:
        return
    if config.cell.trace is None and config.cell.rate_model != "shannon":
        raise InputError(
            "cell.rate_model",
            config.cell.rate_model,
            "shannon with the section energy, whose bounds rest on it",
            _REMEDY,
        )
    weight = config.energy.weight_s_per_j
    if weight is not None and math.isinf(weight) and config.deadline_s is None:
        raise InputError(
            "deadline_s", "left out", "given with energy.weight_s_per_j: .inf", "give a deadline"
        )


def with_energy(
    config: ExperimentConfig, method: Method, devices: tuple[DeviceProfile, ...]
) -> Method:
    """The method with speed and power planned. Raises InputError where they cannot be."""
    section = config.energy
    if not section.is_planned:
        return method
    if not method.planner.redividable or method.split is not None:
        raise InputError(
            "energy",
            "given",
            f"left out with planner {part_name(method.planner)}, whose band is part of what it "
            "decides",
            "choose a method whose planner divides the band for latency alone",
        )
    for device in {device.name: device for device in devices}.values():
        power_at(device, 1.0)
        known_idle_power_w(device)
    return replace(
        method,
        planner=EnergyPlanner(
            method.planner,
            section.weight_s_per_j or 0.0,
            section.budget_j or math.inf,
            section.client_budget_j or math.inf,
        ),
    )


def refuse_on_machines(config: ExperimentConfig) -> None:
    """Refuse the section where clients are real machines, which are not slowed."""
    if config.energy.is_planned:
        raise InputError(
            "energy", "given", "left out where clients are real machines", "they cannot be slowed"
        )
