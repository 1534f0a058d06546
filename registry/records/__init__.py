"""Frozen records, content digests and units: the only module that every package may import.

An artifact is a directory identified by a digest over its files alone; what was measured while it was made
(seconds, kWh, host) stands in a record that names the digest, so that a resumed run ends with the same digest.
"""

from registry.records.base import (
    STRICT,
    Band,
    Interval,
    ShrinkError,
)
from registry.records.content import (
    BLANK,
    digest_directory,
    directory_bytes,
    has_text,
    is_unicode,
    manifest_of,
    sha256_file,
    sha256_json,
)
from registry.records.evaluation import (
    EMBEDDING,
    METRICS,
    PERPLEXITIES,
    WRITING,
    Behaviour,
    Difference,
    Discrepancy,
    Embedding,
    Evaluation,
    Leakage,
    Measure,
    MeasureName,
    Metric,
    ModelScore,
    Perplexity,
    Rival,
    Sample,
    Slice,
    Speed,
    Task,
    Writing,
    better,
)
from registry.records.stages import (
    Footprint,
    StageRecord,
)
from registry.records.verdict import (
    Check,
    State,
    Verdict,
)

__all__ = [
    "BLANK",
    "EMBEDDING",
    "METRICS",
    "PERPLEXITIES",
    "STRICT",
    "WRITING",
    "Band",
    "Behaviour",
    "Check",
    "Difference",
    "Discrepancy",
    "Embedding",
    "Evaluation",
    "Footprint",
    "Interval",
    "Leakage",
    "Measure",
    "MeasureName",
    "Metric",
    "ModelScore",
    "Perplexity",
    "Rival",
    "Sample",
    "ShrinkError",
    "Slice",
    "Speed",
    "StageRecord",
    "State",
    "Task",
    "Verdict",
    "Writing",
    "better",
    "digest_directory",
    "directory_bytes",
    "has_text",
    "is_unicode",
    "manifest_of",
    "sha256_file",
    "sha256_json",
]
