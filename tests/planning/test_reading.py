"""Reading of problem files: units, ranges, and one sentence for everything that is wrong."""

import math
from typing import Any

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.planning.fields import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    ClientColumns,
    decibel_twin,
    read_links,
    read_weights,
)
from airtune.planning.reading import Reader
from airtune.wireless.rate import FixedEfficiencyLinks, MixedLinks, ShannonLinks


class TestReader:
    def test_numbers(self) -> None:
        top = Reader({"a": 1, "b": 2.5e-3, "c": np.float64(3.0), "d": None})
        assert top.number("a") == 1.0
        assert top.number("b", POSITIVE) == 2.5e-3
        assert top.number("c") == 3.0
        assert top.number("d", default=7.0) == 7.0
        assert top.number("e", default=8.0) == 8.0
        top.close()

    @pytest.mark.parametrize("value", [-1, 0, math.nan, math.inf, "five", True, [1], {}])
    def test_refuses_what_is_no_positive_number(self, value: Any) -> None:
        with pytest.raises(InputError, match=r"^bandwidth_hz is .* a number > 0\.$"):
            Reader({"bandwidth_hz": value}).number("bandwidth_hz", POSITIVE)

    @pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
    def test_refuses_what_is_no_share(self, value: float) -> None:
        with pytest.raises(InputError, match=r"from 0 to 1"):
            Reader({"x": value}).number("x", SHARE)

    def test_missing(self) -> None:
        with pytest.raises(InputError, match=r"^bandwidth_hz is missing, but it must be"):
            Reader({}).number("bandwidth_hz")
        with pytest.raises(InputError, match=r"is missing, .*: it stands there without a value\.$"):
            Reader({"bandwidth_hz": None}).number("bandwidth_hz")

    def test_counts(self) -> None:
        assert Reader({"steps": 12}).count("steps") == 12
        assert Reader({"steps": 12.0}).count("steps") == 12
        for value in (0, -1, 1.5, "12", True, math.nan):
            with pytest.raises(InputError, match=r"a whole number >= 1"):
                Reader({"steps": value}).count("steps")

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
        top = Reader({twin: decibels})
        assert top.level(key) == pytest.approx(linear, rel=1e-14)
        top.close()
        assert Reader({key: linear}).level(key) == linear
        with pytest.raises(InputError, match=f"{twin} is .* left out beside {key}"):
            Reader({twin: decibels, key: linear}).level(key)
        with pytest.raises(InputError, match=f"{key} is missing.* or give {twin}"):
            Reader({}).level(key)
        assert Reader({}).level(key, default=5.0) == 5.0

    def test_levels_keep_their_range(self) -> None:
        with pytest.raises(InputError, match=r"noise_psd_dbm_hz is -inf"):
            Reader({"noise_psd_dbm_hz": -math.inf}).level("noise_psd_w_hz", POSITIVE)
        with pytest.raises(InputError, match=r"tx_power_w is -1"):
            Reader({"tx_power_w": -1}).level("tx_power_w")

    def test_vectors(self) -> None:
        top = Reader({"widths": [1, 2.0], "one": 3})
        np.testing.assert_array_equal(top.vector("widths", POSITIVE), [1.0, 2.0])
        np.testing.assert_array_equal(top.vector("one", POSITIVE, length=3), [3.0, 3.0, 3.0])
        for value in (3, [], "12", [1, "2"], [1, -2], [1, math.nan], [True]):
            with pytest.raises(InputError, match=r"widths"):
                Reader({"widths": value}).vector("widths", POSITIVE)
        with pytest.raises(InputError, match=r"a list of 2, .* one number or a list of 3"):
            Reader({"widths": [1, 2]}).vector("widths", POSITIVE, length=3)

    def test_sections_and_rows_are_named(self) -> None:
        top = Reader({"server": {"flop_rate": -1}, "rows": [{"rank": 4}, {"rank": "x"}]})
        with pytest.raises(InputError, match=r"^server\.flop_rate is -1"):
            top.section("server").number("flop_rate", POSITIVE)
        first, second = top.rows("rows")
        assert first.count("rank") == 4
        with pytest.raises(InputError, match=r"^rows\[1\]\.rank is x"):
            second.count("rank")
        wrong: tuple[Any, ...] = ([], "text", 3, {})
        for value in wrong:
            with pytest.raises(InputError, match=r"rows"):
                Reader({"rows": value}).rows("rows")

    def test_unknown_keys_are_refused_with_a_suggestion(self) -> None:
        top = Reader({"bandwidht_hz": 1.0})
        top.has("bandwidth_hz")
        with pytest.raises(InputError, match=r"bandwidht_hz is an unknown key.*bandwidth_hz"):
            top.close()
        with pytest.raises(InputError, match=r"^server.flops is an unknown key"):
            Reader({"flops": 1.0}, "server").close()

    def test_a_problem_is_a_mapping(self) -> None:
        wrong: tuple[Any, ...] = ([], "text", 3, None)
        for value in wrong:
            with pytest.raises(InputError, match=r"^the problem is .* a mapping"):
                Reader(value)


class TestClientColumns:
    def test_lists_and_columns_read_alike(self) -> None:
        rows = ClientColumns(
            [{"name": "a", "weight": 1, "bits": {"fixed": 2}}, {"weight": 3, "bits": {"fixed": 4}}]
        )
        columns = ClientColumns({"weight": np.array([1, 3]), "bits": {"fixed": np.array([2, 4])}})
        assert rows.names == ("a", "1")
        assert columns.names == ("0", "1")
        for clients in (rows, columns):
            assert len(clients) == 2
            np.testing.assert_array_equal(clients.number("weight"), [1.0, 3.0])
            np.testing.assert_array_equal(clients.nested("bits").number("fixed"), [2.0, 4.0])
            clients.close()

    def test_scalars_among_columns_stand_for_all(self) -> None:
        clients = ClientColumns({"weight": np.ones(3), "bits": {"fixed": 5.0}, "delay": 2})
        np.testing.assert_array_equal(clients.nested("bits").number("fixed"), 5.0)
        np.testing.assert_array_equal(clients.number("delay"), [2.0, 2.0, 2.0])

    def test_defaults_fill_gaps(self) -> None:
        clients = ClientColumns([{"weight": 2}, {}])
        np.testing.assert_array_equal(clients.number("weight", default=1.0), [2.0, 1.0])
        np.testing.assert_array_equal(clients.number("delay", default=0.0), [0.0, 0.0])
        with pytest.raises(InputError, match=r"^weight of client 1 is missing"):
            clients.number("weight")

    @pytest.mark.parametrize("value", [-1, math.nan, "x", True, [1.0], {}])
    def test_refusals_name_client_and_field(self, value: Any) -> None:
        clients = ClientColumns(
            [{"name": "a", "bits": {"fixed": 1}}, {"name": "b", "bits": {"fixed": value}}]
        )
        with pytest.raises(InputError, match=r"^bits\.fixed of client b is .* a number >= 0"):
            clients.nested("bits").number("fixed", NOT_NEGATIVE)

    def test_a_bad_entry_of_an_array_is_named(self) -> None:
        clients = ClientColumns({"weight": np.array([1.0, 2.0, math.nan])})
        with pytest.raises(InputError, match=r"^weight of client 2 is nan"):
            clients.number("weight", NOT_NEGATIVE)

    def test_each_client_chooses_its_unit(self) -> None:
        clients = ClientColumns([{"gain_db": -30}, {"gain": 0.5}, {"gain_db": -math.inf}])
        np.testing.assert_allclose(clients.level("gain"), [1e-3, 0.5, 0.0], rtol=1e-14)
        with pytest.raises(InputError, match=r"gain_db of client 0 is -30.0, .* beside gain"):
            ClientColumns([{"gain_db": -30, "gain": 0.1}]).level("gain")
        with pytest.raises(InputError, match=r"gain of client 1 is missing.* or give gain_db"):
            ClientColumns([{"gain_db": -30}, {}]).level("gain")
        with pytest.raises(InputError, match=r"gain_db of client 0 is inf"):
            ClientColumns([{"gain_db": math.inf}]).level("gain")

    def test_vectors(self) -> None:
        clients = ClientColumns([{"gain": [1, 2]}, {"gain": 3}])
        got = clients.vectors("gain", POSITIVE, length=2)
        np.testing.assert_array_equal(got, [[1.0, 2.0], [3.0, 3.0]])
        with pytest.raises(InputError, match=r"energy of client 0 is missing"):
            clients.vectors("energy")

    def test_nested_must_be_mappings(self) -> None:
        with pytest.raises(InputError, match=r"bits of client 1 is 3, .* a mapping"):
            ClientColumns([{"bits": {"fixed": 1}}, {"bits": 3}]).nested("bits")
        with pytest.raises(InputError, match=r"bits of client 1 is missing"):
            ClientColumns([{"bits": {"fixed": 1}}, {}]).nested("bits")
        with pytest.raises(InputError, match=r"bits of client 0 is missing"):
            ClientColumns([{"weight": 1}]).nested("bits")

    @pytest.mark.parametrize("value", [[], "text", 3, None, [3], {"weight": 1.0}, {}])
    def test_clients_must_be_a_list_of_mappings(self, value: Any) -> None:
        with pytest.raises(InputError, match=r"clients"):
            ClientColumns(value)

    def test_columns_must_be_as_long_as_each_other(self) -> None:
        clients = ClientColumns({"weight": np.ones(3), "delay": np.ones(2)})
        with pytest.raises(InputError, match=r"delay is 2 values, but it must be 3"):
            clients.number("delay")

    def test_unknown_keys_of_any_client(self) -> None:
        clients = ClientColumns([{"weight": 1}, {"wieght": 1}])
        clients.number("weight", default=1.0)
        with pytest.raises(InputError, match=r"wieght is an unknown key.*weight"):
            clients.close()


class TestLinks:
    def test_power_gain_and_noise(self) -> None:
        clients = ClientColumns([{"tx_power_w": 0.2, "gain": 1e-11}])
        links = read_links(clients, 4e-21)
        assert isinstance(links, ShannonLinks)
        assert links.cn0_hz[0] == pytest.approx(0.2 * 1e-11 / 4e-21)

    def test_efficiency_needs_no_noise(self) -> None:
        links = read_links(ClientColumns([{"spectral_efficiency_bps_hz": 2.0}]), None)
        assert isinstance(links, FixedEfficiencyLinks)

    def test_mixed(self) -> None:
        clients = ClientColumns(
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
            read_links(ClientColumns([client]), 4e-21)

    def test_noise_must_be_given_for_power_and_gain(self) -> None:
        with pytest.raises(InputError, match=r"noise_psd_dbm_hz is missing"):
            read_links(ClientColumns([{"tx_power_w": 0.2, "gain": 1e-11}]), None)


def test_weights_are_divided_by_their_sum() -> None:
    np.testing.assert_allclose(read_weights(ClientColumns([{"weight": 3}, {}])), [0.75, 0.25])
    np.testing.assert_allclose(read_weights(ClientColumns([{}, {}])), [0.5, 0.5])
    huge = ClientColumns([{"weight": 1e50}, {"weight": 1e50}])
    np.testing.assert_allclose(read_weights(huge), [0.5, 0.5])
    with pytest.raises(InputError, match=r"weight is 0 for every client"):
        read_weights(ClientColumns([{"weight": 0}]))
