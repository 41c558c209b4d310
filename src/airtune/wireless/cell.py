"""The radio cell as a user describes it, checked once, with every conversion from decibels."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from airtune.files import file_value
from airtune.quantities import THERMAL_NOISE_PSD_DBM_HZ, UsualRange, db_to_linear, dbm_to_watts
from airtune.section import Real, Section, input_error, refused
from airtune.wireless.attenuation import CELLULAR_INTERCEPT_DB, CELLULAR_SLOPE_DB
from airtune.wireless.budget import LinkBudget, RateModel
from airtune.wireless.trace_layout import TimeUnit, TraceFormat, TraceUnit

SCENARIOS = ("umi", "uma", "rma")
"""Scenarios of 3GPP TR 38.901: urban micro, urban macro, rural macro."""
PathLoss = Literal["umi", "uma", "rma", "log_distance", "free_space"]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]

_BAND = UsualRange(1e3, 100e9, "it is read in hertz: 20e6 for 20 MHz")
_MOST_RADII = 1000
"""Way between two rounds: each leg of it is drawn, about one a radius."""
_BASE_STATION_HEIGHT_M = {"umi": 10.0, "uma": 25.0, "rma": 35.0}
_HIGHEST_CARRIER_HZ = {"umi": 100e9, "uma": 100e9, "rma": 30e9}


class CellSettings(Section):
    """A cell: band, geometry, propagation, transmitters, receivers, and the planner's estimate.

    The fields are the keys of `cell:` in an experiment file. With `trace` the link rates come from
    a file of measured throughput, and with `replay` the whole channel comes from a file that
    `Channel.export` wrote; the settings of propagation are then not used. With `channel` the gains
    come from a user's class. A value outside its usual range is refused as a likely slip of units
    unless `unusual_values` names its key.

    Raises:
        InputError: naming `cell.<field>`, its value and what is allowed.
    """

    meant_too = ("trace", "channel")

    bandwidth_hz: Annotated[Real, _BAND] = Field(
        3e6, gt=0, description="width of the band that the clients share, Hz"
    )
    carrier_hz: Annotated[
        Real, UsualRange(30e6, 10e12, "it is read in hertz: 3.5e9 for 3.5 GHz")
    ] = Field(3.5e9, gt=0, description="carrier frequency, Hz")
    radius_m: Annotated[Real, UsualRange(1.0, 100e3, "it is read in metres")] = Field(
        200.0, gt=0, description="radius of the cell, m"
    )
    min_distance_m: Real = Field(
        10.0, ge=1, description="least horizontal distance of a client from the base station, m"
    )
    speed_m_s: Annotated[
        Real, UsualRange(0.0, 140.0, "it is read in m/s: 140 m/s are 500 km/h")
    ] = Field(
        0.83,
        ge=0,
        le=1e3,
        description="speed of the clients' random-waypoint walk, m/s; 0: they stand",
    )
    walk_start: Literal["stationary", "uniform"] = Field(
        "stationary",
        description="where walking clients are in round 0: stationary (distributed as in every "
        "later round) | uniform (in area, at the start of a leg: they then drift inward for some "
        "20 rounds)",
    )
    round_interval_s: Annotated[Real, UsualRange(1e-3, 1e6, "it is read in seconds")] = Field(
        10.0, gt=0, description="nominal time between the channels of two rounds, s"
    )
    path_loss: PathLoss = Field(
        "umi",
        description="mean attenuation: 3GPP TR 38.901 (umi, uma, rma), log_distance, free_space",
    )
    log_distance_intercept_db: Annotated[
        Real,
        UsualRange(
            60.0,
            250.0,
            "it is the loss at 1 km; add 3 x log_distance_slope_db to one at 1 m",
            decibels=True,
        ),
    ] = Field(CELLULAR_INTERCEPT_DB, description="path loss at 1 km of log_distance, dB")
    log_distance_slope_db: Annotated[
        Real,
        UsualRange(
            10.0, 100.0, "it is 10 times the path loss exponent", or_zero=True, decibels=True
        ),
    ] = Field(
        CELLULAR_SLOPE_DB, ge=0, description="path loss per decade of distance of log_distance, dB"
    )
    shadowing_db: Real | None = Field(
        None,
        ge=0,
        le=30,
        description="standard deviation of log-normal shadowing, dB; empty: the path loss model's "
        "own (TR 38.901 by line of sight; log_distance 8, free_space 0)",
    )
    shadowing_distance_m: Annotated[Real | None, UsualRange(0.5, 10e3, "it is read in metres")] = (
        Field(
            None,
            gt=0,
            description="decorrelation distance of shadowing, m; empty: TR 38.901's, else 50",
        )
    )
    fading: Literal["3gpp", "rayleigh", "rician", "none"] | None = Field(
        None,
        description="small-scale fading: 3gpp (rays of TR 38.901, averaged over the band), "
        "rayleigh, rician, none; empty: 3gpp for umi, uma and rma, else rayleigh",
    )
    rician_k_db: Real = Field(6.0, ge=-60, le=60, description="Rician factor of fading: rician, dB")
    fading_correlation: Real | None = Field(
        None,
        ge=-1,
        le=1,
        description="correlation of the complex gain between rounds; empty: from the speed "
        "(Jakes); 0: independent blocks; 1: constant",
    )
    tx_power_dbm: Annotated[
        Real, UsualRange(-50.0, 47.0, "it is read in dBm: 23 for 0.2 W", decibels=True)
    ] = Field(23.0, le=60, description="transmit power of a client, dBm")
    bs_tx_power_dbm: Annotated[
        Real, UsualRange(-20.0, 70.0, "it is read in dBm: 46 for 40 W", decibels=True)
    ] = Field(
        33.0, le=80, description="transmit power of the base station over the whole band, dBm"
    )
    antenna_gain_dbi: Real = Field(0.0, ge=-40, le=60, description="antenna gain of a client, dBi")
    bs_antenna_gain_dbi: Real = Field(
        0.0, ge=-40, le=60, description="antenna gain of the base station, dBi"
    )
    bs_height_m: Real | None = Field(
        None,
        ge=3,
        le=150,
        description="height of the base station's antenna in TR 38.901, m; empty: 10, 25, 35 for "
        "umi, uma, rma",
    )
    client_height_m: Real = Field(
        1.5, ge=1, le=10, description="height of the clients' antennas in TR 38.901, m"
    )
    noise_psd_dbm_hz: Annotated[
        Real,
        UsualRange(
            -190.0,
            -130.0,
            "it is a density in dBm/Hz, -174 at room temperature; not dBW/Hz, and "
            "not the noise of a whole band",
            decibels=True,
        ),
    ] = Field(THERMAL_NOISE_PSD_DBM_HZ, ge=-250, le=0, description="thermal noise density, dBm/Hz")
    noise_figure_db: Real = Field(
        5.0, ge=0, le=60, description="noise figure of the base station (uplink), dB"
    )
    client_noise_figure_db: Real = Field(
        9.0, ge=0, le=60, description="noise figure of a client (downlink), dB"
    )
    interference_margin_db: Real = Field(
        0.0, ge=0, le=60, description="rise of the noise floor by other cells, dB"
    )
    rate_model: RateModel = Field(
        "shannon",
        description="bit rate: shannon, cqi (3GPP TS 38.214 table up to 64QAM) or cqi-256qam "
        "(its table up to 256QAM)",
    )
    implementation_margin_db: Real = Field(
        0.0, ge=0, le=60, description="SNR that a real receiver loses against the rate model, dB"
    )
    overhead_share: Real = Field(
        0.0,
        ge=0,
        lt=1,
        description="share by which the bits on the air exceed the payload, such as 0.0456 for "
        "TCP/IP heads of 66 bytes on segments of 1448",
    )
    round_trip_s: Annotated[
        Real, UsualRange(0.0, 10.0, "it is read in seconds: 0.05 for 50 ms")
    ] = Field(
        0.0,
        ge=0,
        description="fixed time added to every transfer (broadcast, upload, each message of a "
        "split model), s",
    )
    csi_error_db: Real = Field(
        0.0,
        ge=0,
        le=60,
        description="standard deviation of the planner's error in the channel gain, dB",
    )
    csi_delay_rounds: int = Field(
        0, ge=0, le=1e6, description="age of the channel that the planner sees, rounds"
    )
    trace: Text | Texts | None = Field(
        None,
        description="file, or one per client, of measured throughput that replaces propagation",
    )
    trace_downlink: Text | Texts | None = Field(
        None,
        description="file, or one per client, of the downlink's throughput; empty: trace has both",
    )
    trace_format: TraceFormat = Field(
        "csv",
        description="csv | ucc-5g (drive logs of G-NetTrack) | 5gophers (a row a second) | "
        "mahimahi (a line is the millisecond at which 1500 bytes can pass)",
    )
    trace_column: Text | Texts | None = Field(
        None,
        description="throughput column, or several, one per client; empty: that of the format, "
        "else the only one in the file",
    )
    trace_downlink_column: Text | Texts | None = Field(
        None,
        description="throughput column of the downlink, or several; empty: that of the format, "
        "else both directions have that of trace_column",
    )
    trace_unit: TraceUnit | None = Field(
        None,
        description="unit of the throughput columns: bits (bps or bit/s) or bytes (Bps or byte/s) "
        "with k, M or G; empty: that of the format, else as the column's name ends",
    )
    trace_time_column: Text | None = Field(
        None,
        description="column of the time of each row: round t then has the mean throughput of the "
        "time from t to t + 1 times round_interval_s; empty: that of the format, else a row is a "
        "round",
    )
    trace_time_unit: TimeUnit | None = Field(
        None,
        description="unit of the time column: s, ms, us, or timestamp (date and time); empty: that "
        "of the format, else as the column's name ends (_s, _ms, _us)",
    )
    trace_gaps: Literal["refuse", "hold", "idle"] = Field(
        "refuse",
        description="where two rows are further apart than trace_gap_s: refuse | hold (the earlier "
        "row counts until the later) | idle (it counts for trace_gap_s, then nothing is sent)",
    )
    trace_gap_s: Real = Field(
        10.0, gt=0, description="longest time between two rows of a trace that is no gap, s"
    )
    trace_window_s: Real = Field(
        1.0, ge=1e-3, description="least width of the windows in which mahimahi's packets count, s"
    )
    trace_where: dict[str, Any] | None = Field(
        None, description="rows of the trace to use, as column: value"
    )
    trace_bandwidth_hz: Annotated[Real | None, _BAND] = Field(
        None, gt=0, description="width of the carrier that the trace was measured on, Hz"
    )
    channel: str | dict[str, Any] | None = Field(
        None,
        description="a channel model of your own in the place of propagation: module:Class, or "
        "{use: module:Class, option: value}",
    )
    replay: Text | None = Field(
        None, description="exported channel (csv or npz) that replaces everything else"
    )
    unusual_values: Text | Texts | None = Field(
        None,
        description="keys of this section whose value is meant although it is outside its usual "
        "range",
    )

    def __init__(self, **values: Any) -> None:
        # Paths and numpy's numbers, as Python programs have them, are good values, too.
        plain = file_value(values)
        try:
            super().__init__(**plain)
        except ValidationError as error:
            raise input_error(error, type(self), "cell", plain) from None

    @model_validator(mode="after")
    def _check(self) -> "CellSettings":
        self._check_geometry()
        self._check_sources()
        if self.path_loss in SCENARIOS:
            self._check_scenario()
        elif self.fading == "3gpp":
            raise refused(
                "fading",
                "3gpp",
                f"rayleigh, rician or none with path_loss {self.path_loss}",
                "its rays belong to the path loss umi, uma or rma",
            )
        return self

    @property
    def small_scale(self) -> str:
        """The fading in force: `fading`, or the one that goes with the path loss."""
        return self.fading or ("3gpp" if self.path_loss in SCENARIOS else "rayleigh")

    @property
    def base_station_height_m(self) -> float:
        """`bs_height_m`, or the height that TR 38.901 gives the scenario."""
        return self.bs_height_m or _BASE_STATION_HEIGHT_M[self.path_loss]

    def link_budget(self) -> LinkBudget:
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
        """The keys whose unusual value is meant."""
        named = self.unusual_values
        return () if named is None else (named,) if isinstance(named, str) else tuple(named)

    def _check_geometry(self) -> None:
        if self.min_distance_m > self.radius_m:
            raise refused(
                "min_distance_m", self.min_distance_m, f"at most radius_m, {self.radius_m:g}"
            )
        if self.speed_m_s * self.round_interval_s > _MOST_RADII * self.radius_m:
            most = _MOST_RADII * self.radius_m / self.speed_m_s
            raise refused(
                "round_interval_s",
                self.round_interval_s,
                f"at most {most:g}, in which a client walks {_MOST_RADII} radii",
                "places are independent from round to round long before",
            )
        # log_distance does not depend on the carrier.
        if self.path_loss != "log_distance" and self.bandwidth_hz > 2 * self.carrier_hz:
            allowed = f"at most twice carrier_hz, {2 * self.carrier_hz:g}: a band is above 0 Hz"
            raise refused("bandwidth_hz", self.bandwidth_hz, allowed)

    def _check_scenario(self) -> None:
        """The range that TR 38.901 Table 7.4.1-1 states for its formulas."""
        highest = _HIGHEST_CARRIER_HZ[self.path_loss]
        if not 0.5e9 <= self.carrier_hz <= highest:
            allowed = f"from 0.5e9 to {highest:g} with path_loss {self.path_loss}"
            raise refused("carrier_hz", self.carrier_hz, allowed)
        if self.radius_m > 5e3:
            raise refused(
                "radius_m", self.radius_m, f"at most 5000 with path_loss {self.path_loss}"
            )
        if self.min_distance_m < 10:
            allowed = f"at least 10 with path_loss {self.path_loss}"
            raise refused("min_distance_m", self.min_distance_m, allowed)
        if self.base_station_height_m <= self.client_height_m:
            allowed = f"above client_height_m, {self.client_height_m:g}"
            raise refused("bs_height_m", self.bs_height_m, allowed)
        if self.small_scale == "3gpp" and self.fading_correlation not in (None, 0, 1):
            allowed = "empty, 0 or 1 with fading 3gpp"
            raise refused("fading_correlation", self.fading_correlation, allowed)

    def _check_sources(self) -> None:
        if self.trace is not None and self.trace_bandwidth_hz is None:
            raise refused(
                "trace_bandwidth_hz",
                self.trace_bandwidth_hz,
                "given with a trace",
                "give the carrier width, in hertz, that the throughput was measured on",
            )
        if self.channel is not None:
            for name in ("trace", "replay"):
                self._refuse_beside("channel", name, "a channel of your own replaces it")
        if self.replay is not None:
            remedy = "the file already holds the true channel and the planner's"
            for name in ("csi_error_db", "csi_delay_rounds", "trace"):
                self._refuse_beside("replay", name, remedy)

    def _refuse_beside(self, key: str, name: str, remedy: str) -> None:
        if getattr(self, name):
            raise refused(name, getattr(self, name), f"left out with cell.{key}", remedy)

    @property
    def is_drawn(self) -> bool:
        """Whether clients have places: no file and no model of the user's replaces propagation."""
        return self.trace is None and self.replay is None and self.channel is None
