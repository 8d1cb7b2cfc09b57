"""The demo's rides: made up, the same on every machine, with tips that a model can learn."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIDES_A_DAY = 2_000
PAYMENTS = ("card", "cash", "app")
DISTRICTS = ("Mitte", "Neukölln", "Pankow", "Spandau", "Köpenick")

# Rides begin in each hour of the day with these weights: a quiet night, two rushes, a long evening.
_HOURS = np.array([3, 2, 1, 1, 1, 2, 4, 8, 9, 6, 5, 5, 6, 6, 6, 7, 8, 10, 11, 10, 8, 7, 6, 5], dtype=float)


def rides_of(day: date, count: int = RIDES_A_DAY) -> pa.Table:
    """Make the rides of one day (UTC): one row a ride, with the columns of the demo's source table.

    Seeded by the day, so that the same day is always the same; about one payment in a hundred is not known.
    """
    random = np.random.default_rng(day.toordinal())
    seconds = 3600 * random.choice(24, count, p=_HOURS / _HOURS.sum()) + random.integers(0, 3600, count)
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    km = np.round(random.lognormal(1.3, 0.7, count), 2)
    payments = random.choice([*PAYMENTS, ""], count, p=[0.6, 0.24, 0.15, 0.01])
    return pa.table(
        {
            "ride_id": pa.array(day.toordinal() * 1_000_000 + np.arange(count)),
            "pickup": pa.array(
                [midnight + timedelta(seconds=int(each)) for each in np.sort(seconds)],
                pa.timestamp("us", "UTC"),
            ),
            "km": pa.array(km),
            "fare": pa.array(np.round(4.0 + 2.1 * km + random.normal(0, 0.8, count).clip(-2), 2)),
            "passengers": pa.array(random.choice([1, 2, 3, 4], count, p=[0.7, 0.2, 0.06, 0.04]), pa.int32()),
            "payment": pa.array([str(each) or None for each in payments], pa.string()),
            "district": pa.array(random.choice(DISTRICTS, count).tolist(), pa.string()),
        }
    )


def tips_of(rides: pa.Table) -> NDArray[np.float64]:
    """What riders tipped, one float64 a ride: a share of the fare that depends on how they paid and when."""
    random = np.random.default_rng(rides.num_rows)
    hours = np.array([each.hour for each in rides["pickup"].to_pylist()])
    share = np.select(
        [np.array(rides["payment"].to_pylist()) == name for name in PAYMENTS],
        [0.16, 0.04, 0.12],
        default=0.08,
    )
    late = np.where((hours >= 20) | (hours < 4), 1.3, 1.0)
    tips = rides["fare"].to_numpy() * share * late + random.normal(0, 0.3, rides.num_rows)
    rounded: NDArray[np.float64] = np.round(tips.clip(0), 2)
    return rounded
