"""gaekit's metrics: numbers about reconstructions, samples and latents, each with its protocol."""

from gaekit.api import Component, hookimpl
from gaekit_metrics.adm import Adm
from gaekit_metrics.class_accuracy import ClassAccuracy
from gaekit_metrics.cmmd import Cmmd
from gaekit_metrics.fid import Fid, Rfid, Sfid
from gaekit_metrics.frechet import Frechet
from gaekit_metrics.inception_score import InceptionScore
from gaekit_metrics.interpolation import Ifid, Interpolation
from gaekit_metrics.kid import Kid
from gaekit_metrics.latent_statistics import ChannelStatistics, EffectiveRank, Spectrum
from gaekit_metrics.linear_probe import LinearProbe
from gaekit_metrics.lpips_metric import Lpips
from gaekit_metrics.memorisation import Memorisation
from gaekit_metrics.mind import Mind
from gaekit_metrics.noise_curve import NoiseCurve
from gaekit_metrics.panel import Panel
from gaekit_metrics.precision_recall import Precision, Recall
from gaekit_metrics.psnr import Psnr
from gaekit_metrics.rfrechet import Rfrechet
from gaekit_metrics.ssim import Ssim


@hookimpl
def gaekit_components() -> list[type[Component]]:
    """The metrics."""
    inception = (Adm, Fid, Sfid, Kid, Mind, InceptionScore, Precision, Recall)
    teachers = (Frechet, Cmmd, Memorisation)
    latents = (LinearProbe, NoiseCurve, Spectrum, EffectiveRank, ChannelStatistics, Interpolation, Ifid)
    return [Psnr, Ssim, Lpips, Rfid, Rfrechet, *inception, *teachers, Panel, ClassAccuracy, *latents]
