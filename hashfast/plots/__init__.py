"""Figures of retrieval results, codes and data. They need matplotlib; its state is left alone.

Files are replaced whole or not at all; the suffix names the format (png, pdf, svg), png if none.
Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

from hashfast.plots.codes import tsne, two_bit
from hashfast.plots.condensation import condensation_curves
from hashfast.plots.distillation import (
    alignment_bars,
    bit_histograms,
    distillation_bars,
    offset_positive_boxes,
    parameter_map,
    teacher_student_tsne,
)
from hashfast.plots.labels import label_statistics
from hashfast.plots.proxies import proxy_similarity
from hashfast.plots.quality import quality_bars, quality_lines
from hashfast.plots.quantization import distance_curves, quantization_bars
from hashfast.plots.retrieval_curves import curves, pr_curve, precision_curve
from hashfast.plots.retrieval_grids import deformation_grid, retrieval_grid
from hashfast.plots.views import augmentation_grid

__all__ = [
    "alignment_bars",
    "augmentation_grid",
    "bit_histograms",
    "condensation_curves",
    "curves",
    "deformation_grid",
    "distance_curves",
    "distillation_bars",
    "label_statistics",
    "offset_positive_boxes",
    "parameter_map",
    "pr_curve",
    "precision_curve",
    "proxy_similarity",
    "quality_bars",
    "quality_lines",
    "quantization_bars",
    "retrieval_grid",
    "teacher_student_tsne",
    "tsne",
    "two_bit",
]
