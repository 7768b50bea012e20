"""The shipped tables of limits, made for a configuration: what is watched, and what is done about it, rung by
rung.

Thresholds follow from the configuration wherever it has the fact already (SAFE of the battery, limits of the
nodes, the card's maximum); what no other subsystem knows stands in ``Config``. So each fact stands once, and the
tables move with it. The rows stand in one module for each domain, ``fdir_power`` to ``fdir_task``.

Under these tables lies a floor in code (``eps``, ``thermal``, ``mode``) that no table can unload; the tables are
the staged answers before it, and all that the floor does not know. On an undisturbed flight nothing trips.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from flightsw.link.limit_tables import ActionTable, WatchTable

from . import fdir_gpu, fdir_link, fdir_power, fdir_storage, fdir_task, fdir_thermal

if TYPE_CHECKING:
    from .vehicle import Config as CoreConfig

NAME: Final = "shipped"
CONFIGURATIONS_MAX: Final = 8
"""Configurations whose tables are kept made."""
DOMAINS: Final = (fdir_power, fdir_thermal, fdir_gpu, fdir_link, fdir_storage, fdir_task)


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the shipped tables that belong to no other subsystem."""

    array_weak_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 60.0
    """In full sun the array may give less than a quarter of its power for this long (machine clock)."""
    battery_hot_degc: Annotated[float, Meta(ge=0.0, le=100.0)] = 45.0
    """Highest temperature of the battery; 10 K above it is SAFE."""
    battery_cold_degc: Annotated[float, Meta(ge=-60.0, le=30.0)] = 0.0
    """Lowest temperature at which the battery may be charged."""
    die_limit_degc: Annotated[float, Meta(ge=20.0, le=150.0)] = 87.0
    """Highest temperature of the GPU's die as the card reports it."""
    memory_limit_degc: Annotated[float, Meta(ge=20.0, le=150.0)] = 95.0
    """Highest temperature of the GPU's memory as the card reports it."""
    board_power_factor: Annotated[float, Meta(ge=1.0, le=3.0)] = 1.1
    """Board power over governor.gpu_max_w, as a factor, that is too much."""
    ecc_corrected_per_s: Annotated[float, Meta(ge=0.0, le=1e6)] = 1.0
    """Corrected ECC errors per second that a sound card does not have."""
    ecc_uncorrected_max: Annotated[float, Meta(ge=1.0, le=1e6)] = 4.0
    """Uncorrected ECC errors since the driver started that ask for a power cycle."""
    probe_silent_s: Annotated[float, Meta(ge=2.0, le=3600.0)] = 15.0
    """The probe is silent without a sample for this long (machine clock)."""
    step_time_factor: Annotated[float, Meta(ge=1.5, le=100.0)] = 5.0
    """A training step is slow when it takes this many times as long as at the worker's beginning."""
    loss_rise: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    """A training loss diverges when it is this far over its slow mean."""
    frames_bad_per_s: Annotated[float, Meta(ge=0.0, le=1e6)] = 5.0
    """Unreadable frames per second on a wire that are told."""
    disk_low_mb: Annotated[float, Meta(ge=1.0, le=1e9)] = 500.0
    """Free space of the state directory that is low; a fifth of it is full."""
    rss_max_mb: Annotated[float, Meta(ge=50.0, le=1e6)] = 1024.0
    """Memory of the daemon that ends in a restart; half of it is told."""
    overruns_per_s: Annotated[float, Meta(ge=0.1, le=50.0)] = 3.0
    """Minor frames skipped per second that are too many."""


@lru_cache(maxsize=CONFIGURATIONS_MAX)
def shipped(config: "CoreConfig") -> tuple[WatchTable, ActionTable]:
    """Watchpoints and actionpoints for this configuration."""
    domains = [domain.rows(config) for domain in DOMAINS]
    return (
        WatchTable(name=NAME, watchpoints=tuple(point for rows in domains for point in rows.watchpoints)),
        ActionTable(name=NAME, actionpoints=tuple(point for rows in domains for point in rows.actionpoints)),
    )
