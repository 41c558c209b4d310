"""Which device each client is."""

from pathlib import Path

from airtune.config.experiment import ExperimentConfig
from airtune.cost.device import DeviceProfile, find_device, load_devices


def deal_devices(config: ExperimentConfig) -> tuple[DeviceProfile, ...]:
    """Profiles dealt out to the clients in turn."""
    own = config.clients.device_file
    known = load_devices(Path(own) if own else None)
    kinds = [find_device(name, known, "clients.devices") for name in config.clients.devices]
    return tuple(kinds[client % len(kinds)] for client in range(config.clients.count))
