"""Reading of problem files: units, ranges, and one sentence for everything that is wrong."""

import math
from typing import Annotated, Any

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.planning.sections import (
    NOT_NEGATIVE,
    POSITIVE,
    Count,
    Level,
    LinkedClient,
    NotNegative,
    Positive,
    ProblemSection,
    Share,
    WeightedClient,
    decibel_twin,
)
from airtune.planning.table import ClientTable, read_links, read_weights
from airtune.ranges import Numbers, number_list
from airtune.section import check
from airtune.wireless.rate import FixedEfficiencyLinks, MixedLinks, ShannonLinks


class Row(ProblemSection):
    rank: Count | None = None
    rate: Positive | None = None


class Top(ProblemSection):
    """One key of every kind."""

    levels = ("tx_power_w", "noise_psd_w_hz", "gain")

    bandwidth_hz: Positive
    share: Share = 0.5
    steps: Count = 1
    tx_power_w: NotNegative | None = None
    tx_power_dbm: Level | None = None
    noise_psd_w_hz: Positive | None = None
    noise_psd_dbm_hz: Level | None = None
    gain: NotNegative | None = None
    gain_db: Level | None = None
    widths: Annotated[Any, Numbers(POSITIVE)] = None
    server: Row | None = None
    rows: tuple[Row, ...] = ()


class Needed(Top):
    needed_levels = ("gain",)


def read(**keys: Any) -> Top:
    return check(Top, {"bandwidth_hz": 1.0, **keys})


class TestSections:
    def test_numbers(self) -> None:
        top = read(bandwidth_hz=np.float64(3.0), share=None, steps=12.0)
        assert (top.bandwidth_hz, top.share, top.steps) == (3.0, 0.5, 12)
        assert read(bandwidth_hz=1).bandwidth_hz == 1.0

    @pytest.mark.parametrize("value", [-1, 0, math.nan, math.inf, "five", "5", True, [1], {}])
    def test_refuses_what_is_no_positive_number(self, value: Any) -> None:
        with pytest.raises(InputError, match=r"^bandwidth_hz is .* a number above 0\.$"):
            read(bandwidth_hz=value)

    @pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
    def test_refuses_what_is_no_share(self, value: float) -> None:
        with pytest.raises(InputError, match=r"a number from 0 to 1"):
            read(share=value)

    def test_missing(self) -> None:
        with pytest.raises(InputError, match=r"^bandwidth_hz is missing, but it must be"):
            check(Top, {})
        with pytest.raises(InputError, match=r"is missing, .*: it stands there without a value\.$"):
            check(Top, {"bandwidth_hz": None})

    @pytest.mark.parametrize("value", [0, -1, 1.5, "12", True, math.nan, 1e16, 10**400])
    def test_counts(self, value: Any) -> None:
        with pytest.raises(InputError, match=r"a whole number of at least 1"):
            read(steps=value)

    @pytest.mark.parametrize(
        ("key", "twin", "decibels", "linear"),
        [
            ("tx_power_w", "tx_power_dbm", 23.0, 10**2.3 * 1e-3),
            ("noise_psd_w_hz", "noise_psd_dbm_hz", -174.0, 10**-20.4),
            ("gain", "gain_db", -110.0, 1e-11),
            ("gain", "gain_db", -math.inf, 0.0),
        ],
    )
    def test_levels(self, key: str, twin: str, decibels: float, linear: float) -> None:
        assert decibel_twin(key)[0] == twin
        assert read(**{twin: decibels}).level(key) == pytest.approx(linear, rel=1e-14)
        if linear:
            assert read(**{key: linear}).level(key) == linear
        with pytest.raises(InputError, match=f"{twin} is .* left out beside {key}"):
            read(**{twin: decibels, key: 1e-3})
        assert read().level(key, default=5.0) == 5.0

    def test_a_level_may_be_needed(self) -> None:
        with pytest.raises(InputError, match=r"^gain is missing.* or give gain_db"):
            check(Needed, {"bandwidth_hz": 1})
        assert check(Needed, {"bandwidth_hz": 1, "gain_db": -30}).level("gain") == 1e-3

    def test_levels_keep_their_range(self) -> None:
        with pytest.raises(InputError, match=r"noise_psd_dbm_hz is -inf, .* in watts"):
            read(noise_psd_dbm_hz=-math.inf)
        with pytest.raises(InputError, match=r"tx_power_w is -1"):
            read(tx_power_w=-1)
        with pytest.raises(InputError, match=r"gain_db is inf, .* decibels"):
            read(gain_db=math.inf)

    def test_lists(self) -> None:
        np.testing.assert_array_equal(read(widths=[1, 2.0]).widths, [1.0, 2.0])
        for value in (3, [], "12", [1, "2"], [1, -2], [1, math.nan], [True]):
            with pytest.raises(InputError, match=r"^widths is "):
                read(widths=value)
        np.testing.assert_array_equal(number_list(3, "one", POSITIVE, length=3), [3.0, 3.0, 3.0])
        with pytest.raises(InputError, match=r"a list of 2, .* one number or a list of 3"):
            number_list([1, 2], "widths", POSITIVE, length=3)

    def test_sections_and_rows_are_named(self) -> None:
        with pytest.raises(InputError, match=r"^server\.rate is -1"):
            read(server={"rate": -1})
        assert read(rows=[{"rank": 4}]).rows[0].rank == 4
        with pytest.raises(InputError, match=r"^rows\[1\]\.rank is x"):
            read(rows=[{"rank": 4}, {"rank": "x"}])
        wrong: tuple[Any, ...] = ("text", 3, {})
        for value in wrong:
            with pytest.raises(InputError, match=r"^rows is .* a list"):
                read(rows=value)

    def test_unknown_keys_are_refused_with_a_suggestion(self) -> None:
        with pytest.raises(InputError, match=r"^bandwidht_hz is not a key.*'bandwidth_hz'\?"):
            check(Top, {"bandwidht_hz": 1.0})
        with pytest.raises(InputError, match=r"^server.flops is not a key.*known here: rank, rate"):
            read(server={"flops": 1.0})
        with pytest.raises(InputError, match=r"^rows\[0\]\.rnk is not a key.*'rank'"):
            read(rows=[{"rnk": 1.0}])

    def test_a_problem_is_a_mapping(self) -> None:
        wrong: tuple[Any, ...] = ([], "text", 3, None)
        for value in wrong:
            with pytest.raises(InputError, match=r"^the file is .* a mapping"):
                check(Top, value)


class Parts(ProblemSection):
    fixed: NotNegative


class Client(WeightedClient):
    """One client, with a key of every kind."""

    bits: Parts
    delay: NotNegative = 0.0
    rate: Positive | None = None
    energy: Annotated[Any, Numbers(POSITIVE)] = None
    gains: Annotated[Any, Numbers(NOT_NEGATIVE, one=True)] = None


BITS = {"bits": {"fixed": 1}}


def table(*clients: dict[str, Any]) -> ClientTable:
    return ClientTable(Client, [{**BITS, **client} for client in clients])


class TestClientTable:
    def test_lists_and_columns_read_alike(self) -> None:
        rows = table(
            {"name": "a", "weight": 1, "bits": {"fixed": 2}}, {"weight": 3, "bits": {"fixed": 4}}
        )
        columns = ClientTable(
            Client, {"weight": np.array([1, 3]), "bits": {"fixed": np.array([2, 4])}}
        )
        assert rows.names == ("a", "1")
        assert columns.names == ("0", "1")
        for clients in (rows, columns):
            assert len(clients) == 2
            np.testing.assert_array_equal(clients.number("weight"), [1.0, 3.0])
            np.testing.assert_array_equal(clients.nested("bits").number("fixed"), [2.0, 4.0])

    def test_scalars_among_columns_stand_for_all(self) -> None:
        clients = ClientTable(Client, {"weight": np.ones(3), "bits": {"fixed": 5.0}, "delay": 2})
        np.testing.assert_array_equal(clients.nested("bits").number("fixed"), 5.0)
        np.testing.assert_array_equal(clients.number("delay"), [2.0, 2.0, 2.0])

    def test_defaults_fill_gaps(self) -> None:
        clients = table({"weight": 2}, {})
        np.testing.assert_array_equal(clients.number("weight"), [2.0, 1.0])
        np.testing.assert_array_equal(clients.number("delay"), [0.0, 0.0])
        np.testing.assert_array_equal(clients.number("rate"), [math.nan, math.nan])
        with pytest.raises(InputError, match=r"^bits\.fixed of client 1 is missing"):
            table({}, {"bits": {}})

    @pytest.mark.parametrize("value", [-1, math.nan, "x", True, [1.0], {}])
    def test_refusals_name_client_and_field(self, value: Any) -> None:
        with pytest.raises(InputError, match=r"^bits\.fixed of client b is .* of at least 0"):
            table({"name": "a"}, {"name": "b", "bits": {"fixed": value}})

    def test_a_bad_entry_of_an_array_is_named(self) -> None:
        with pytest.raises(InputError, match=r"^weight of client 2 is nan"):
            ClientTable(Client, {"weight": np.array([1.0, 2.0, math.nan]), **BITS})

    def test_each_client_chooses_its_unit(self) -> None:
        clients = table({"gain_db": -30}, {"gain": 0.5}, {"gain_db": -math.inf})
        np.testing.assert_allclose(clients.level("gain"), [1e-3, 0.5, 0.0], rtol=1e-14)
        with pytest.raises(InputError, match=r"gain_db of client 0 is -30.0, .* beside gain"):
            table({"gain_db": -30, "gain": 0.1})
        with pytest.raises(InputError, match=r"gain_db of client 0 is inf"):
            table({"gain_db": math.inf})

    def test_lists(self) -> None:
        clients = table({"gains": [1, 2]}, {"gains": 3})
        np.testing.assert_array_equal(clients.vectors("gains")[0], [1.0, 2.0])
        assert clients.vectors("gains")[1] == 3.0
        with pytest.raises(InputError, match=r"^energy of client 0 is missing.* a list of numbers"):
            clients.vectors("energy")

    def test_nested_must_be_mappings(self) -> None:
        with pytest.raises(InputError, match=r"^bits of client 1 is 3, .* a mapping"):
            table({}, {"bits": 3})
        with pytest.raises(InputError, match=r"^bits of client 1 is missing"):
            ClientTable(Client, [BITS, {}])
        with pytest.raises(InputError, match=r"^bits of client 0 is missing"):
            ClientTable(Client, [{"weight": 1}])

    @pytest.mark.parametrize("value", [[], "text", 3, None, [3], {"weight": 1.0}, {}])
    def test_clients_must_be_a_list_of_mappings(self, value: Any) -> None:
        with pytest.raises(InputError, match=r"clients"):
            ClientTable(Client, value)

    def test_columns_must_be_as_long_as_each_other(self) -> None:
        with pytest.raises(InputError, match=r"delay is 2 values, but it must be 3"):
            ClientTable(Client, {"weight": np.ones(3), "delay": np.ones(2), **BITS})

    def test_unknown_keys_of_any_client(self) -> None:
        with pytest.raises(InputError, match=r"wieght is not a key.*'weight'"):
            table({"weight": 1}, {"wieght": 1})


def linked(clients: Any) -> ClientTable:
    return ClientTable(LinkedClient, clients)


def weighted(clients: Any) -> ClientTable:
    return ClientTable(WeightedClient, clients)


class TestLinks:
    def test_power_gain_and_noise(self) -> None:
        clients = linked([{"tx_power_w": 0.2, "gain": 1e-11}])
        links = read_links(clients, 4e-21)
        assert isinstance(links, ShannonLinks)
        assert links.cn0_hz[0] == pytest.approx(0.2 * 1e-11 / 4e-21)

    def test_efficiency_needs_no_noise(self) -> None:
        links = read_links(linked([{"spectral_efficiency_bps_hz": 2.0}]), math.nan)
        assert isinstance(links, FixedEfficiencyLinks)

    def test_mixed(self) -> None:
        clients = linked(
            [{"tx_power_dbm": 23, "gain_db": -110}, {"spectral_efficiency_bps_hz": 2.0}]
        )
        assert isinstance(read_links(clients, 4e-21), MixedLinks)

    @pytest.mark.parametrize(
        ("client", "words"),
        [
            ({}, "tx_power_w of client 0 is missing.*tx_power_dbm"),
            ({"tx_power_w": 0.2}, "gain of client 0 is missing.*gain_db"),
            ({"gain": 0.2}, "tx_power_w of client 0 is missing"),
            ({"gain": 0.2, "spectral_efficiency_bps_hz": 1.0}, "gain of client 0 is given.*beside"),
            ({"tx_power_w": -1, "gain": 1}, "tx_power_w of client 0 is -1"),
            (
                {"tx_power_w": 1e300, "gain": 1e300},
                "1e.300.*of magnitude 1e.50",
            ),
        ],
    )
    def test_refusals(self, client: dict[str, float], words: str) -> None:
        with pytest.raises(InputError, match=words):
            read_links(linked([client]), 4e-21)

    def test_noise_must_be_given_for_power_and_gain(self) -> None:
        with pytest.raises(InputError, match=r"noise_psd_dbm_hz is missing"):
            read_links(linked([{"tx_power_w": 0.2, "gain": 1e-11}]), math.nan)


def test_weights_are_divided_by_their_sum() -> None:
    np.testing.assert_allclose(read_weights(weighted([{"weight": 3}, {}])), [0.75, 0.25])
    np.testing.assert_allclose(read_weights(weighted([{}, {}])), [0.5, 0.5])
    huge = weighted([{"weight": 1e50}, {"weight": 1e50}])
    np.testing.assert_allclose(read_weights(huge), [0.5, 0.5])
    with pytest.raises(InputError, match=r"weight is 0 for every client"):
        read_weights(weighted([{"weight": 0}]))
