"""What metrics are made of, whatever they measure: images on uint8's grid, streamed moments, subsets and labelled rows
in bounded memory, references from files, and the base of metrics on a network's features."""

from gaekit.api.metrics.features import (
    Collector,
    Extractor,
    FeatureMetric,
    FeatureMoments,
    Features,
    FeatureSettings,
    ReferenceSettings,
    Scoring,
    Subset,
)
from gaekit.api.metrics.moments import Moments, frechet_distance, singular_warning
from gaekit.api.metrics.reference import Reference, Statistics, open_reference
from gaekit.api.metrics.rows import (
    TrainingRows,
    check_labels,
    implementation,
    require_classes,
    require_some,
    to_uint8,
)

__all__ = [
    "Collector",
    "Extractor",
    "FeatureMetric",
    "FeatureMoments",
    "FeatureSettings",
    "Features",
    "Moments",
    "Reference",
    "ReferenceSettings",
    "Scoring",
    "Statistics",
    "Subset",
    "TrainingRows",
    "check_labels",
    "frechet_distance",
    "implementation",
    "open_reference",
    "require_classes",
    "require_some",
    "singular_warning",
    "to_uint8",
]
