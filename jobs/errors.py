"""The errors the jobs package raises; all of them are `BatchpredError`s."""

from __future__ import annotations

from storage.errors import BatchpredError, ConfigurationError


class JobError(BatchpredError):
    """A run could not do its work."""


class JobFileError(ConfigurationError):
    """A job file says something that cannot be meant; the message begins with file:line:column."""


class IntervalError(ConfigurationError):
    """A date names no interval that can be scored."""


class ModelError(JobError):
    """A model file cannot be used: it is no ONNX, damaged, unsafe, or does not fit the job."""


class ModelDamagedError(ModelError):
    """The bytes of a model are not those that were registered; nothing was done with them."""


class DeviceError(ModelError):
    """The device the job asks for is not there, or does not take the model."""

    exit_code = 2
