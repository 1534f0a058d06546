"""Memory in MB that a decoder's stages take: so much of each weight, so much of each token of a batch.

Weights are float32. A training holds, where the loss is known, on its way there: each weight with what goes with it,
and what the way back needs of each token. Gradients of the last step are gone by then (tasks/generate/lesson.py), and
those of this one take the place of what the layers gave. All figures are above TORCH, which is what a stage's process
has imported; they were fitted to peaks of the recipe `smollm2` (benchmarks/README.md) and of decoders of 48M weights.
"""

from flows.forecast.amounts import TORCH
from tasks.distill.rounded import DistillRoundedConfig
from tasks.generate.header import Decoder
from tasks.generate.lesson import LessonConfig

# Bytes a weight
FULL = 12.0  # the weight and Adam's two moments
SCALES = 6.3  # an integer of one byte, the weight that it stands for, its share of scales with gradients and moments
INTEGERS = 13.0  # besides: where it is between its neighbours, two moments, the integer as it is now
WALKED = 6.0  # a stage that goes layer by layer: the weights and half as much (tests/tasks/generate/test_memory.py)
ADOPTED, BLOCKS, COPIED, JUDGED, READ = 8.0, 10.3, 2.2, 14.0, 0.6
# Bytes a token and piece of the vocabulary: logits, their logs, the loss and the gradients of all these
LEARNT_LOGITS, TOLD_LOGITS, COMPARED_LOGITS = 18.0, 14.0, 24.0
TOKENS_COMPARED = 512


def training(config: LessonConfig, weights: float, decoder: Decoder, length: int) -> float:
    """Of a training on windows of so many tokens.

    A layer leaves for the way back about 14 vectors of its width a token (what norms and products read, queries, keys
    and values before and behind their turn, what attention says) and 4 of its neurons: the gate, its activation, what
    it is multiplied by, and the product.
    """
    held = FULL
    if isinstance(config, DistillRoundedConfig):
        held = SCALES + (INTEGERS if config.learn == "integers" else 0.0)
    layers = 4.0 * decoder.layers * (14 * decoder.width + 4 * decoder.neurons)
    token = LEARNT_LOGITS * decoder.pieces + layers
    return TORCH + 1e-6 * (held * weights + config.batch * length * token)


def answers(weights: float, decoder: Decoder, tokens: float) -> float:
    """Of the answers to a batch of so many tokens, of which the likeliest pieces are kept."""
    return TORCH + 1e-6 * (4 * weights + TOLD_LOGITS * decoder.pieces * tokens)


def comparison(weights: float, decoder: Decoder, rounded: bool) -> float:
    """Of an export beside what it was made of: the weights, their integers, both models' logits and their distance."""
    held = (5.0 if rounded else 4.0) * weights
    return TORCH + 1e-6 * (held + COMPARED_LOGITS * decoder.pieces * TOKENS_COMPARED)


def passing(weights: float, held: float = WALKED) -> float:
    """Of a stage that holds so many bytes of each weight, and little else."""
    return TORCH + 1e-6 * held * weights
