"""What a stage leaves and takes that makes a student smaller, or another one, without teaching it."""

from flows.forecast.amounts import (
    BACKWARD,
    LOAD,
    TRAINING,
    Forecast,
    Made,
    activations,
    calibrated,
    loaded,
    read,
    torch_made,
)
from flows.forecast.counted import Counted
from tasks.prune import structured, vocabulary
from tasks.prune.low_rank import PruneLowRankConfig
from tasks.prune.magnitude import PruneMagnitudeConfig
from tasks.prune.structured import PruneStructuredConfig
from tasks.prune.vocabulary import PruneVocabularyConfig
from tasks.prune.wanda import PruneWandaConfig
from tasks.shape import Shape
from tasks.students import StudentConfig, StudentMethods, described

Cuts = (
    StudentMethods
    | PruneVocabularyConfig
    | PruneStructuredConfig
    | PruneLowRankConfig
    | PruneMagnitudeConfig
    | PruneWandaConfig
)


def foretell(config: Cuts, student: Made, counted: Counted) -> Forecast:
    """The forecast of a stage that works on this student."""
    assert student.shape is not None
    match config:
        case StudentConfig():
            shape = fresh(config, student.shape, counted)
            return Forecast(made=torch_made(shape, student.tokenizer), work=LOAD, ram_mb=loaded(student.shape))
        case PruneVocabularyConfig():
            return vocabulary_pruned(config, student, counted)
        case PruneStructuredConfig():
            return structured_pruned(config, student, counted)
        case PruneMagnitudeConfig():
            return Forecast(made=torch_made(student.shape, student.tokenizer), work=LOAD, ram_mb=loaded(student.shape))
        case PruneWandaConfig():
            return calibrated(config.calibration_rows, student, counted)
        case PruneLowRankConfig():
            shape = student.shape.cut(embedding_rank=config.rank)
            return Forecast(made=torch_made(shape, student.tokenizer), work=LOAD + 1, ram_mb=loaded(student.shape))


def fresh(config: StudentMethods, before: Shape, counted: Counted) -> Shape:
    """The shape of a student that is made anew with another's word pieces and labels."""
    facts = {"vocab_size": before.rows[0], "max_position_embeddings": counted.max_length, "pad_token_id": 0}
    return Shape(config=described(config, facts), labels=before.labels)


def vocabulary_pruned(config: PruneVocabularyConfig, student: Made, counted: Counted) -> Forecast:
    """The pieces that stay are counted as the stage counts them, and the tokenizer is written as it writes it."""
    import json

    from tokenizers import Tokenizer

    assert student.shape is not None
    found = counted.splits["train"].pieces
    if config.transfer:
        found = found + counted.splits["transfer"].pieces
    pad = counted.tokenizer.padding or {}
    kept = sorted({*vocabulary.kept_pieces(counted.description, found, config.min_count), int(pad.get("pad_id", 0))})
    smaller, _ = vocabulary.reindex(counted.description, kept)
    written = Tokenizer.from_str(json.dumps(smaller, ensure_ascii=False)).to_str()
    shape = student.shape.cut(vocab_size=len(kept))
    rows, tokens, _ = counted.of("train")
    ram = loaded(student.shape, read(rows, tokens) / 4)
    return Forecast(made=torch_made(shape, len(written.encode())), work=LOAD + 5e-5 * rows, ram_mb=ram)


def structured_pruned(config: PruneStructuredConfig, student: Made, counted: Counted) -> Forecast:
    """Cuts; importance takes a backward pass of the whole model over a sample."""
    whole = student.shape
    assert whole is not None
    shape = smaller(config, whole, counted)
    work, held = LOAD, 0.0
    if any(one is not None for one in (config.ffn, config.heads, config.hidden)):
        sample = min(1.0, structured.SAMPLE / max(1, counted.splits["train"].rows))
        _, tokens, squares = counted.of("train")
        work += sample * (1 + BACKWARD) * whole.macs(tokens, squares) / TRAINING
        held = activations(whole, 16, counted, trained=True)
    return Forecast(made=torch_made(shape, student.tokenizer), work=work, ram_mb=loaded(whole, held))


def smaller(config: PruneStructuredConfig, shape: Shape, counted: Counted) -> Shape:
    """A shape after its cuts."""
    if config.layers is not None:
        shape = shape.cut(num_hidden_layers=len(config.layers))
    if config.ffn is not None:
        shape = shape.cut(intermediate_size=config.ffn)
    if config.heads is not None:
        shape = shape.cut(kept_heads=config.heads)
    if config.hidden is not None:
        heads = shape.letters["i"] // shape.letters["s"]
        count = config.hidden // shape.letters["s"]
        shape = shape.cut(hidden_size=config.hidden, num_attention_heads=count, kept_heads=heads)
    return shape.cut_positions(counted.max_length) if config.positions else shape
