"""Keys of a cell that have no effect beside the others, so that none is ignored in silence."""

from airtune.errors import InputError
from airtune.wireless.cell import SCENARIOS, CellSettings
from airtune.wireless.trace_layout import LAYOUTS, PACKETS

MEASURED = "trace", "replay"
IN_FORCE_WITH_A_FILE = (
    "bandwidth_hz",
    "tx_power_dbm",
    "csi_error_db",
    "csi_delay_rounds",
    "round_interval_s",
    "overhead_share",
    "round_trip_s",
)
"""Keys that a measured or replayed channel still needs; the others describe a drawn one."""
_OF_COLUMNS = (
    "column",
    "downlink_column",
    "unit",
    "time_column",
    "time_unit",
    "gaps",
    "gap_s",
    "where",
)


def changed_keys(settings: CellSettings) -> set[str]:
    """Keys whose value is not the default's."""
    return {
        name
        for name, field in CellSettings.model_fields.items()
        if getattr(settings, name) != field.default
    }


def refuse_unused_cell_keys(settings: CellSettings) -> None:
    """Raise InputError for the first key that differs from its default and changes nothing."""
    changed = changed_keys(settings)
    for key, needed in _without_effect(settings):
        if key in changed:
            value = getattr(settings, key)
            raise InputError(
                f"cell.{key}", value, f"left out unless {needed}", "it would have no effect"
            )


def replaced_keys(settings: CellSettings) -> list[str]:
    """Keys of propagation that differ from their default while a file replaces propagation."""
    if settings.trace is None and settings.replay is None:
        return []
    changed = changed_keys(settings)
    return [
        name
        for name in CellSettings.model_fields
        if name in changed and not name.startswith(MEASURED) and name not in IN_FORCE_WITH_A_FILE
    ]


def _without_effect(settings: CellSettings) -> list[tuple[str, str]]:
    """Keys with what they need to have an effect; all of them here lack it."""
    found = _of_traces(settings)
    # A user's model is given every key.
    return found + _of_propagation(settings) if settings.is_drawn else found


def _of_traces(settings: CellSettings) -> list[tuple[str, str]]:
    if settings.trace is None:
        traced = [name for name in CellSettings.model_fields if name.startswith("trace_")]
        return [(name, "cell.trace names a measured trace") for name in traced]
    found = []
    if settings.trace_format == PACKETS:
        needed = f"cell.trace_format is another than {PACKETS}"
        found += [(f"trace_{name}", needed) for name in _OF_COLUMNS]
    else:
        found.append(("trace_window_s", f"cell.trace_format is {PACKETS}"))
    layout = LAYOUTS.get(settings.trace_format)
    if layout and layout.time_column is None and settings.trace_time_column is None:
        needed = "cell.trace_time_column names the time of each row"
        found += [(f"trace_{name}", needed) for name in ("time_unit", "gaps", "gap_s")]
    elif settings.trace_gaps == "hold":
        found.append(("trace_gap_s", "cell.trace_gaps is refuse or idle"))
    return found


def _of_propagation(settings: CellSettings) -> list[tuple[str, str]]:
    found = []
    if settings.path_loss != "log_distance":
        needed = "cell.path_loss is log_distance"
        found += [("log_distance_intercept_db", needed), ("log_distance_slope_db", needed)]
    if settings.path_loss not in SCENARIOS:
        needed = f"cell.path_loss is {', '.join(SCENARIOS[:-1])} or {SCENARIOS[-1]}"
        found += [("bs_height_m", needed), ("client_height_m", needed)]
    if settings.small_scale != "rician":
        found.append(("rician_k_db", "cell.fading is rician"))
    if settings.small_scale == "none":
        found.append(("fading_correlation", "cell.fading is not none"))
    unshadowed = settings.shadowing_db == 0 or (
        settings.shadowing_db is None and settings.path_loss == "free_space"
    )
    if unshadowed:
        found.append(("shadowing_distance_m", "cell.shadowing_db is above 0"))
    return found
