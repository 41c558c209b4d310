"""The radio cell as a user describes it, checked once, with every conversion from decibels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from airtune.errors import InputError
from airtune.files import file_value
from airtune.quantities import (
    THERMAL_NOISE_PSD_DBM_HZ,
    UsualRange,
    db_to_linear,
    dbm_to_watts,
    read_meant,
    refuse_unusual,
)
from airtune.wireless.attenuation import CELLULAR_INTERCEPT_DB, CELLULAR_SLOPE_DB
from airtune.wireless.cell_fields import check, choice, number, text

SCENARIOS = ("umi", "uma", "rma")
"""Scenarios of 3GPP TR 38.901: urban micro, urban macro, rural macro."""
PATH_LOSSES = (*SCENARIOS, "log_distance", "free_space")
FADINGS = ("3gpp", "rayleigh", "rician", "none")
RATE_MODELS = ("shannon", "cqi")
WALK_STARTS = ("stationary", "uniform")
TRACE_UNITS = {
    f"{prefix}{unit}": scale * bits
    for unit, bits in (("bps", 1.0), ("Bps", 8.0))
    for prefix, scale in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))
}
"""Units of measured throughput in bit/s; a capital B is a byte."""

_BAND = UsualRange(1e3, 100e9, "it is read in hertz: 20e6 for 20 MHz")
_MOST_RADII = 1000
"""Way between two rounds: each leg of it is drawn, about one a radius."""
_BASE_STATION_HEIGHT_M = {"umi": 10.0, "uma": 25.0, "rma": 35.0}
_HIGHEST_CARRIER_HZ = {"umi": 100e9, "uma": 100e9, "rma": 30e9}


@dataclass(frozen=True)
class CellSettings:
    """A cell: band, geometry, propagation, transmitters, receivers, and the planner's estimate.

    The field names are the keys of `cell:` in an experiment file; each field's meaning, with its
    unit, is in `dataclasses.fields(CellSettings)[i].metadata["help"]`. With `trace` the link rates
    come from a file of measured throughput, and with `replay` the whole channel comes from a file
    that `Channel.export` wrote; the settings of propagation are then not used. A value outside its
    usual range is refused as a likely slip of units unless `unusual_values` names its key.

    Raises:
        InputError: naming `cell.<field>`, its value and what is allowed.
    """

    bandwidth_hz: float = number(
        3e6, "width of the band that the clients share, Hz", above=0, usual=_BAND
    )
    carrier_hz: float = number(
        3.5e9,
        "carrier frequency, Hz",
        above=0,
        usual=UsualRange(30e6, 10e12, "it is read in hertz: 3.5e9 for 3.5 GHz"),
    )
    radius_m: float = number(
        200.0,
        "radius of the cell, m",
        above=0,
        usual=UsualRange(1.0, 100e3, "it is read in metres"),
    )
    min_distance_m: float = number(
        10.0, "least horizontal distance of a client from the base station, m", least=1
    )
    speed_m_s: float = number(
        0.83,
        "speed of the clients' random-waypoint walk, m/s; 0: they stand",
        least=0,
        most=1e3,
        usual=UsualRange(0.0, 140.0, "it is read in m/s: 140 m/s are 500 km/h"),
    )
    walk_start: str = choice(
        "stationary",
        "where walking clients are in round 0: stationary (distributed as in every "
        "later round) | uniform (in area, at the start of a leg: they then drift inward for some "
        "20 rounds)",
        WALK_STARTS,
    )
    round_interval_s: float = number(
        10.0,
        "nominal time between the channels of two rounds, s",
        above=0,
        usual=UsualRange(1e-3, 1e6, "it is read in seconds"),
    )

    path_loss: str = choice(
        "umi",
        "mean attenuation: 3GPP TR 38.901 (umi, uma, rma), log_distance, free_space",
        PATH_LOSSES,
    )
    log_distance_intercept_db: float = number(
        CELLULAR_INTERCEPT_DB,
        "path loss at 1 km of log_distance, dB",
        usual=UsualRange(
            60.0,
            250.0,
            "it is the loss at 1 km; add 3 x log_distance_slope_db to one at 1 m",
            decibels=True,
        ),
    )
    log_distance_slope_db: float = number(
        CELLULAR_SLOPE_DB,
        "path loss per decade of distance of log_distance, dB",
        least=0,
        usual=UsualRange(
            10.0, 100.0, "it is 10 times the path loss exponent", or_zero=True, decibels=True
        ),
    )
    shadowing_db: float | None = number(
        None,
        "standard deviation of log-normal shadowing, dB; empty: the path loss model's own "
        "(TR 38.901 by line of sight; log_distance 8, free_space 0)",
        least=0,
        most=30,
    )
    shadowing_distance_m: float | None = number(
        None,
        "decorrelation distance of shadowing, m; empty: TR 38.901's, else 50",
        above=0,
        usual=UsualRange(0.5, 10e3, "it is read in metres"),
    )
    fading: str | None = choice(
        None,
        "small-scale fading: 3gpp (rays of TR 38.901, averaged over the band), rayleigh, "
        "rician, none; empty: 3gpp for umi, uma and rma, else rayleigh",
        FADINGS,
    )
    rician_k_db: float = number(6.0, "Rician factor of fading: rician, dB", least=-60, most=60)
    fading_correlation: float | None = number(
        None,
        "correlation of the complex gain between rounds; empty: from the speed (Jakes); 0: "
        "independent blocks; 1: constant",
        least=-1,
        most=1,
    )

    tx_power_dbm: float = number(
        23.0,
        "transmit power of a client, dBm",
        most=60,
        usual=UsualRange(-50.0, 47.0, "it is read in dBm: 23 for 0.2 W", decibels=True),
    )
    bs_tx_power_dbm: float = number(
        33.0,
        "transmit power of the base station over the whole band, dBm",
        most=80,
        usual=UsualRange(-20.0, 70.0, "it is read in dBm: 46 for 40 W", decibels=True),
    )
    antenna_gain_dbi: float = number(0.0, "antenna gain of a client, dBi", least=-40, most=60)
    bs_antenna_gain_dbi: float = number(
        0.0, "antenna gain of the base station, dBi", least=-40, most=60
    )
    bs_height_m: float | None = number(
        None,
        "height of the base station's antenna in TR 38.901, m; empty: 10, 25, 35 for umi, uma, rma",
        least=3,
        most=150,
    )
    client_height_m: float = number(
        1.5, "height of the clients' antennas in TR 38.901, m", least=1, most=10
    )

    noise_psd_dbm_hz: float = number(
        THERMAL_NOISE_PSD_DBM_HZ,
        "thermal noise density, dBm/Hz",
        least=-250,
        most=0,
        usual=UsualRange(
            -190.0,
            -130.0,
            "it is a density in dBm/Hz, -174 at room temperature; not dBW/Hz, and "
            "not the noise of a whole band",
            decibels=True,
        ),
    )
    noise_figure_db: float = number(
        5.0, "noise figure of the base station (uplink), dB", least=0, most=60
    )
    client_noise_figure_db: float = number(
        9.0, "noise figure of a client (downlink), dB", least=0, most=60
    )
    interference_margin_db: float = number(
        0.0, "rise of the noise floor by other cells, dB", least=0, most=60
    )
    rate_model: str = choice(
        "shannon", "bit rate: shannon, or cqi (3GPP TS 38.214 table)", RATE_MODELS
    )
    implementation_margin_db: float = number(
        0.0, "SNR that a real receiver loses against the rate model, dB", least=0, most=60
    )

    csi_error_db: float = number(
        0.0, "standard deviation of the planner's error in the channel gain, dB", least=0, most=60
    )
    csi_delay_rounds: int = number(
        0, "age of the channel that the planner sees, rounds", least=0, most=1e6
    )

    trace: str | Sequence[str] | None = text(
        "csv file, or one per client, of measured throughput that replaces propagation",
        several=True,
    )
    trace_column: str | Sequence[str] | None = text(
        "throughput column, or several, one per client; empty: the only one in the file",
        several=True,
    )
    trace_unit: str | None = choice(
        None,
        "unit of the throughput columns: bits (bps, kbps, Mbps, Gbps) or bytes (Bps, kBps, "
        "MBps, GBps); empty: as the column's name ends",
        tuple(TRACE_UNITS),
    )
    trace_where: Mapping[str, str] | None = field(
        default=None, metadata={"help": "rows of the trace to use, as column: value"}
    )
    trace_bandwidth_hz: float | None = number(
        None, "width of the carrier that the trace was measured on, Hz", above=0, usual=_BAND
    )
    replay: str | None = text("exported channel (csv or npz) that replaces everything else")
    unusual_values: str | Sequence[str] | None = text(
        "keys of this section whose value is meant although it is outside its usual range",
        several=True,
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            # Paths and numpy's numbers, as Python programs have them, are good values, too.
            value = file_value(given := getattr(self, entry.name))
            object.__setattr__(self, entry.name, tuple(value) if type(given) is tuple else value)
            check(entry.name, getattr(self, entry.name), dict(entry.metadata), entry.default)
        self._check_units()
        self._check_geometry()
        self._check_sources()
        if self.path_loss in SCENARIOS:
            self._check_scenario()
        elif self.fading == "3gpp":
            raise InputError(
                "cell.fading",
                "3gpp",
                f"rayleigh, rician or none with path_loss {self.path_loss}",
                "its rays belong to the path loss umi, uma or rma",
            )

    @property
    def small_scale(self) -> str:
        """The fading in force: `fading`, or the one that goes with the path loss."""
        return self.fading or ("3gpp" if self.path_loss in SCENARIOS else "rayleigh")

    @property
    def base_station_height_m(self) -> float:
        """`bs_height_m`, or the height that TR 38.901 gives the scenario."""
        return self.bs_height_m or _BASE_STATION_HEIGHT_M[self.path_loss]

    def link_budget(self) -> "LinkBudget":
        """Powers, noise and margins as linear SI values."""
        noise_dbm_hz = self.noise_psd_dbm_hz + self.interference_margin_db
        return LinkBudget(
            tx_power_w=float(dbm_to_watts(self.tx_power_dbm)),
            bs_tx_power_w=float(dbm_to_watts(self.bs_tx_power_dbm)),
            uplink_noise_psd=float(dbm_to_watts(noise_dbm_hz + self.noise_figure_db)),
            downlink_noise_psd=float(dbm_to_watts(noise_dbm_hz + self.client_noise_figure_db)),
            margin=float(db_to_linear(self.implementation_margin_db)),
            rate_model=self.rate_model,
        )

    @property
    def meant(self) -> tuple[str, ...]:
        """The keys whose unusual value is meant, checked."""
        known = [entry.name for entry in fields(self) if entry.metadata.get("usual")]
        return read_meant(self.unusual_values, [*known, "trace"], "cell.unusual_values")

    def _check_units(self) -> None:
        meant = self.meant
        for entry in fields(self):
            value, usual = getattr(self, entry.name), entry.metadata.get("usual")
            if usual is not None and value is not None:
                name = f"cell.{entry.name}"
                refuse_unusual(name, value, usual, "cell.unusual_values", meant)

    def _check_geometry(self) -> None:
        if self.min_distance_m > self.radius_m:
            raise InputError(
                "cell.min_distance_m", self.min_distance_m, f"at most radius_m, {self.radius_m:g}"
            )
        if self.speed_m_s * self.round_interval_s > _MOST_RADII * self.radius_m:
            most = _MOST_RADII * self.radius_m / self.speed_m_s
            raise InputError(
                "cell.round_interval_s",
                self.round_interval_s,
                f"at most {most:g}, in which a client walks {_MOST_RADII} radii",
                "places are independent from round to round long before",
            )
        # log_distance does not depend on the carrier.
        if self.path_loss != "log_distance" and self.bandwidth_hz > 2 * self.carrier_hz:
            allowed = f"at most twice carrier_hz, {2 * self.carrier_hz:g}: a band is above 0 Hz"
            raise InputError("cell.bandwidth_hz", self.bandwidth_hz, allowed)

    def _check_scenario(self) -> None:
        """The range that TR 38.901 Table 7.4.1-1 states for its formulas."""
        highest = _HIGHEST_CARRIER_HZ[self.path_loss]
        if not 0.5e9 <= self.carrier_hz <= highest:
            allowed = f"from 0.5e9 to {highest:g} with path_loss {self.path_loss}"
            raise InputError("cell.carrier_hz", self.carrier_hz, allowed)
        if self.radius_m > 5e3:
            raise InputError(
                "cell.radius_m", self.radius_m, f"at most 5000 with path_loss {self.path_loss}"
            )
        if self.min_distance_m < 10:
            allowed = f"at least 10 with path_loss {self.path_loss}"
            raise InputError("cell.min_distance_m", self.min_distance_m, allowed)
        if self.base_station_height_m <= self.client_height_m:
            allowed = f"above client_height_m, {self.client_height_m:g}"
            raise InputError("cell.bs_height_m", self.bs_height_m, allowed)
        if self.small_scale == "3gpp" and self.fading_correlation not in (None, 0, 1):
            allowed = "empty, 0 or 1 with fading 3gpp"
            raise InputError("cell.fading_correlation", self.fading_correlation, allowed)

    def _check_sources(self) -> None:
        if self.trace_where is not None and not isinstance(self.trace_where, Mapping):
            raise InputError("cell.trace_where", self.trace_where, "a mapping of column to value")
        if self.csi_delay_rounds != int(self.csi_delay_rounds):
            raise InputError("cell.csi_delay_rounds", self.csi_delay_rounds, "a whole number")
        if self.trace is not None and self.trace_bandwidth_hz is None:
            raise InputError(
                "cell.trace_bandwidth_hz",
                self.trace_bandwidth_hz,
                "given with a trace",
                "give the carrier width, in hertz, that the throughput was measured on",
            )
        if self.replay is None:
            return
        for name in ("csi_error_db", "csi_delay_rounds", "trace"):
            if getattr(self, name):
                raise InputError(
                    f"cell.{name}",
                    getattr(self, name),
                    "left out with cell.replay",
                    "the file already holds the true channel and the planner's",
                )


@dataclass(frozen=True)
class LinkBudget:
    """What a link needs beside its gain, linear and in SI units.

    Attributes:
        tx_power_w: a client's transmit power, W.
        bs_tx_power_w: the base station's transmit power over the band, W.
        uplink_noise_psd: noise and interference at the base station, W/Hz.
        downlink_noise_psd: noise and interference at a client, W/Hz.
        margin: implementation margin, a power ratio >= 1.
        rate_model: `shannon` or `cqi`.
    """

    tx_power_w: float
    bs_tx_power_w: float
    uplink_noise_psd: float
    downlink_noise_psd: float
    margin: float
    rate_model: str
