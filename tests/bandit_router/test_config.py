"""Config: flags win over variables, they over the file, it over defaults; what is wrong is named."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from bandit_router import LinUCB, Model, Preference, Router, SettingsError, ThompsonSampling
from bandit_router.config import Config, Limits, Service, read_config

FILE = """
log = "sqlite:///file.db"
[settings]
policy = "linucb:alpha=0.25"
half_life_s = 60
[settings.preference]
price_weight = 0.5
[[models]]
name = "a"
output_usd_per_mtok = 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "router.toml"
    path.write_text(FILE)
    return path


def test_nothing_said_is_the_default() -> None:
    assert read_config(environ={}) == Config()


def test_a_file_is_read(file: Path) -> None:
    config = read_config(file)
    assert config.log == "sqlite:///file.db"
    assert config.models == (Model("a", output_usd_per_mtok=2.0),)
    assert config.settings == {
        "policy": LinUCB(alpha=0.25),
        "half_life": timedelta(minutes=1),
        "preference": Preference(price_weight=0.5),
    }


def test_variables_win_over_the_file_and_flags_over_variables(file: Path) -> None:
    environ = {"BANDIT_ROUTER_LOG": "sqlite:///env.db", "BANDIT_ROUTER_POLICY": "thompson", "HOME": "/x"}
    config = read_config(file, environ=environ)
    assert (config.log, config.settings["policy"]) == ("sqlite:///env.db", ThompsonSampling())
    config = read_config(file, environ=environ, flags={"log": "sqlite:///flag.db", "router": None})
    assert (config.log, config.router) == ("sqlite:///flag.db", "default")


def test_variables_are_toml_or_plain_text() -> None:
    environ = {
        "BANDIT_ROUTER_FLOOR": "0.1",
        "BANDIT_ROUTER_STICKY": "false",
        "BANDIT_ROUTER_TEXT": "hash",
        "BANDIT_ROUTER_PREFERENCE": "{price_weight = 0.2, max_quality_drop = 0.02}",
    }
    settings = read_config(environ=environ).settings
    assert settings == {
        "floor": 0.1,
        "sticky": False,
        "text": "hash",
        "preference": Preference(price_weight=0.2, max_quality_drop=0.02),
    }


def test_the_service_is_told_by_flags_variables_and_file(tmp_path: Path) -> None:
    path = tmp_path / "router.toml"
    path.write_text('[service]\nhost = "::1"\nport = 1\nworkers = 2\ncors = ["https://a.example"]\n')
    environ = {"BANDIT_ROUTER_PORT": "2", "BANDIT_ROUTER_WORKERS": "3", "BANDIT_ROUTER_DRAIN_S": "1.5"}
    service = read_config(path, environ=environ, flags={"workers": 4, "host": None}).service
    assert service == Service(host="::1", port=2, workers=4, drain_s=1.5, cors=("https://a.example",))


def test_a_service_in_a_container_needs_only_variables() -> None:
    environ = {
        "BANDIT_ROUTER_HOST": "0.0.0.0",
        "BANDIT_ROUTER_CORS": "https://a.example, https://b.example",
    }
    service = read_config(environ=environ).service
    assert (service.host, service.cors) == ("0.0.0.0", ("https://a.example", "https://b.example"))
    environ["BANDIT_ROUTER_CORS"] = '["*"]'
    assert read_config(environ=environ).service.cors == ("*",)


def test_a_config_opens_a_router(file: Path, tmp_path: Path) -> None:
    config = read_config(file, flags={"log": f"sqlite:///{tmp_path / 'x.db'}"})
    with Router.open(**config.arguments()) as router:
        assert router.settings.policy == LinUCB(alpha=0.25)
        assert [model.name for model in router.models] == ["a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1", "colour"),
        ("log = 7", "log"),
        ("log = ''", "log"),
        ("settings = 3", "settings"),
        ("[settings]\ncolour = 1", "colour"),
        ("[settings]\npolicy = 'magic'", "magic"),
        ("[settings]\npolicy = 'linucb:alpha=nan'", "alpha"),
        ("[settings]\nhalf_life_s = 'long'", "half_life_s"),
        ("[settings]\nhalf_life_s = inf", "half_life_s"),
        ("[settings]\nhalf_life_s = 1e300", "half_life_s"),
        ("[settings.preference]\nprice = 1", "preference"),
        ("[settings.preference]\nmax_quality_drop = -1", "max_quality_drop"),
        ("[settings.metrics.x]\nkind = 'mood'", "kind"),
        ("models = 'a'", "models"),
        ("[[models]]\nprice = 1", "model"),
        ("[[models]]\nname = 'a'\noutput_usd_per_mtok = -1", "output_usd_per_mtok"),
        ("service = 3", "service"),
        ("[service]\ncolour = 1", "colour"),
        ("[service]\nport = 65536", "port"),
        ("[service]\nport = '8080'", "port"),
        ("[service]\nhost = ''", "host"),
        ("[service]\nworkers = 0", "workers"),
        ("[service]\nworkers = true", "workers"),
        ("[service]\ndrain_s = 0", "drain_s"),
        ("[service]\nreceive_s = -1", "receive_s"),
        ("[service]\nkeep_alive_s = 0.5", "keep_alive_s"),
        ("[service]\nconnections = 0", "connections"),
        ("[service]\nbody_bytes = 0", "body_bytes"),
        ("[service]\ncors = 1", "cors"),
        ("[service]\ncors = [1]", "cors"),
        ("not toml", "router.toml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "router.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=said):
        read_config(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.toml"):
        read_config(tmp_path / "missing.toml")
    with pytest.raises(SettingsError):
        read_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"binary\.toml"):
        read_config(tmp_path / "binary.toml")


def test_unknown_variables_are_refused() -> None:
    with pytest.raises(SettingsError, match="colour"):
        read_config(environ={"BANDIT_ROUTER_COLOUR": "red"})


def test_limits_are_read(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text('[limits]\nkey_per_minute = 600\nuser_burst = 3\nwhen_away = "closed"')
    environ = {"BANDIT_ROUTER_USER_PER_MINUTE": "0.5", "BANDIT_ROUTER_USER_BURST": "4"}
    read = read_config(file, environ=environ).limits
    assert read == Limits(key_per_minute=600, user_per_minute=0.5, user_burst=4, when_away="closed")
    assert read_config().limits == Limits()


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("key_per_minute = 0", "key_per_minute"),
        ("user_per_minute = -1", "user_per_minute"),
        ("user_per_minute = 1e12", "user_per_minute"),
        ('key_per_minute = "many"', "key_per_minute"),
        ("key_burst = 0", "key_burst"),
        ("user_burst = 1.5", "user_burst"),
        ('when_away = "shut"', "when_away"),
        ("per_minute = 5", "limits: no entry 'per_minute'"),
    ],
)
def test_limits_that_are_wrong(tmp_path: Path, entry: str, named: str) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(f"[limits]\n{entry}")
    with pytest.raises(SettingsError, match=named):
        read_config(file)


def test_what_is_borne_while_the_log_is_away_can_be_said_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('journal = "here"\nlog_timeout_s = 2\njournal_bytes = 1000\n')
    config = read_config(file, environ={"BANDIT_ROUTER_LOG_TIMEOUT_S": "0.5"})
    told = {"journal": "here", "log_timeout_s": 0.5, "journal_bytes": 1000}
    assert config.patience() == told
    assert config.arguments().items() >= told.items()
    assert read_config(environ={"BANDIT_ROUTER_JOURNAL": "12"}).journal == "12"
    with pytest.raises(SettingsError, match="log_timeout_s: expected a number above 0"):
        Router.open("sqlite://", models=[], log_timeout_s=0)
