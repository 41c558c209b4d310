"""What a link needs beside its gain, and the rates that a model of them gives."""

from dataclasses import dataclass
from typing import Literal, get_args

from airtune.quantities import FloatArray
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import Links, ShannonLinks

RateModel = Literal["shannon", "cqi", "cqi-256qam"]
RATE_MODELS: tuple[str, ...] = get_args(RateModel)
_TABLES = {"cqi": "64qam", "cqi-256qam": "256qam"}


@dataclass(frozen=True)
class LinkBudget:
    """What a link needs beside its gain, linear and in SI units.

    Attributes:
        tx_power_w: a client's transmit power, W.
        bs_tx_power_w: the base station's transmit power over the band, W.
        uplink_noise_psd: noise and interference at the base station, W/Hz.
        downlink_noise_psd: noise and interference at a client, W/Hz.
        margin: implementation margin, a power ratio >= 1.
        rate_model: one of `RATE_MODELS`.
    """

    tx_power_w: float
    bs_tx_power_w: float
    uplink_noise_psd: float
    downlink_noise_psd: float
    margin: float
    rate_model: str


def at_power(links: Links, share: FloatArray) -> Links:
    """The links at a share of their transmit power [client].

    Measured efficiencies stay as they are: what they would be at another power is not known.
    """
    if isinstance(links, ShannonLinks):
        return ShannonLinks(links.effective_hz * share)
    return links.scaled(share) if isinstance(links, CqiLinks) else links


def power_links(
    rate_model: str, cn0_hz: FloatArray, margin: float = 1.0
) -> ShannonLinks | CqiLinks:
    """Links by power and noise: Shannon's rate, or that of a CQI table.

    Args:
        rate_model: one of `RATE_MODELS`.
        cn0_hz: carrier-to-noise-density ratio p g / N0 [client], Hz.
        margin: implementation margin, a power ratio >= 1.
    """
    if rate_model == "shannon":
        return ShannonLinks(cn0_hz, margin)
    return CqiLinks(cn0_hz, margin, _TABLES[rate_model])
