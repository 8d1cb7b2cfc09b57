"""The job file's contract: every key, its type, its default and what it means, checked strictly."""

from jobs.jobspec.job import Job

__all__ = ["Job"]
