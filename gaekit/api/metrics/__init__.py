"""What metrics are made of, whatever they measure: images on uint8's grid, streamed moments, subsets and labelled rows
in bounded memory, references from files, and the base of metrics on a network's features."""

from gaekit.api.metrics.blocks import in_blocks
from gaekit.api.metrics.features import (
    Collector,
    Extractor,
    FeatureMetric,
    FeatureMoments,
    Features,
    FeatureSettings,
    GroupedFeatureMoments,
    ReferenceSettings,
    Scoring,
    Subset,
)
from gaekit.api.metrics.groups import GROUPS, groups_of, half_splits
from gaekit.api.metrics.mean import MeanMetric
from gaekit.api.metrics.moments import (
    GroupedMoments,
    Moments,
    frechet_distance,
    frechet_interval,
    singular_warning,
)
from gaekit.api.metrics.nearer import nearer_shares
from gaekit.api.metrics.reference import Reference, Statistics, open_reference
from gaekit.api.metrics.rows import (
    TrainingRows,
    check_labels,
    implementation,
    require_classes,
    require_some,
    to_uint8,
)
from gaekit.intervals import (
    jackknife_interval,
    mean_interval,
    parts_interval,
    share_interval,
    student_t,
    wilson,
)

__all__ = [
    "GROUPS",
    "Collector",
    "Extractor",
    "FeatureMetric",
    "FeatureMoments",
    "FeatureSettings",
    "Features",
    "GroupedFeatureMoments",
    "GroupedMoments",
    "MeanMetric",
    "Moments",
    "Reference",
    "ReferenceSettings",
    "Scoring",
    "Statistics",
    "Subset",
    "TrainingRows",
    "check_labels",
    "frechet_distance",
    "frechet_interval",
    "groups_of",
    "half_splits",
    "implementation",
    "in_blocks",
    "jackknife_interval",
    "mean_interval",
    "nearer_shares",
    "open_reference",
    "parts_interval",
    "require_classes",
    "require_some",
    "share_interval",
    "singular_warning",
    "student_t",
    "to_uint8",
    "wilson",
]
