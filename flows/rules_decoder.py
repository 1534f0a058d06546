"""What each stage of a `generate` recipe leaves and takes, foretold from the decoder's and the documents' sizes.

A token is about BYTES_A_TOKEN bytes of English; every pass multiplies each weight once a token, and a training three
times. Constants were fitted to a run of the recipe `smollm2`.
"""

from pathlib import Path

from flows.amounts import BARE, FORWARD, TORCH, TRAINING, Forecast, Made
from flows.recipe import Recipe
from registry.records import directory_bytes
from tasks.export.matmul_nbits import MatmulNbitsConfig
from tasks.generate import choices, documents, header, llama_types
from tasks.generate.documents import DocumentsConfig
from tasks.generate.header import Decoder
from tasks.kinds import AnyStageConfig, RoundDecoders
from tasks.quantize.llama_cpp import LlamaCppConfig
from tasks.quantize.w8a8 import W8a8Config

BYTES_A_TOKEN = 4.3
START = 6.0  # seconds to import, load and save
BLOCK_BITS, TABLE_BITS, BYTE_BITS, HALF_BITS, WHOLE_BITS = 4.5, 8.5, 8.0, 16.0, 32.0
TIMED_TOKENS = 4_000  # of three models, generated one after the other


class CountedDocuments:
    """The documents of a recipe as numbers, and its decoder."""

    def __init__(self, recipe: Recipe, model: Path, source: Path, second: Path | None) -> None:
        assert isinstance(recipe.data, DocumentsConfig)
        self.decoder: Decoder = header.look(model)
        parts = documents.split_documents(source, recipe.data)
        self.sizes = {name: sum(len(row["text"].encode()) for row in rows) for name, rows in parts.items()}
        self.rows = sum(len(rows) for rows in parts.values())
        if second is not None and recipe.data.second_file:
            read = documents.read(second, recipe.data.second_file, "prose", "second_file")
            self.sizes["second"] = sum(len(row["text"].encode()) for row in documents.thinned(read, recipe.data.limit))
            self.rows += len(read)
        self.max_length = recipe.data.max_length
        self.rounding = next((one for one in reversed(recipe.stages) if isinstance(one, RoundDecoders)), None)
        self.source = Made(format="source", bytes=directory_bytes(model), weights=self.decoder.parameters)

    def tokens(self, *names: str) -> float:
        """About how many tokens some splits have."""
        return sum(self.sizes.get(name, 0) for name in names) / BYTES_A_TOKEN


def foretell(config: AnyStageConfig, inputs: dict[str, Made], counted: CountedDocuments) -> Forecast:
    """The forecast of a stage with these inputs by role."""
    decoder = counted.decoder
    model = next((one for one in inputs.values() if one.weights), counted.source)
    weights = float(model.weights or decoder.parameters)
    held = TORCH + 4e-6 * weights
    match config.kind:
        case "data":
            size = sum(counted.sizes.values()) * 1.02 + 30 * counted.rows + 300
            return Forecast(made=Made(format="rows", bytes=round(size)), work=0.3, ram_mb=BARE + 5e-6 * size)
        case "adopt":
            weights = kept(decoder, getattr(config, "keep_layers", None))
            made = Made(format="lm", bytes=round(4 * weights) + decoder.tokenizer_bytes, weights=round(weights))
            return Forecast(
                made=made, work=START + 8e-8 * decoder.parameters, ram_mb=TORCH + 1.5e-5 * decoder.parameters
            )
        case "floor":
            weights = kept(decoder, getattr(config, "keep_layers", None))
            bits = BLOCK_BITS * (weights - decoder.tables) + TABLE_BITS * decoder.tables
            made = Made(format="gguf", bytes=round(bits / 8) + decoder.tokenizer_bytes, weights=round(weights))
            return Forecast(
                made=made, work=START + 1e-7 * decoder.parameters, ram_mb=TORCH + 1.5e-5 * decoder.parameters
            )
        case "export":
            packed = config.writes[1] == "packed"  # whose zeros are not known yet
            bits = 32.0 if packed else model.bits or HALF_BITS
            bits = in_blocks(config, bits, counted) if isinstance(config, MatmulNbitsConfig) else bits
            size = round(bits * weights / 8) + decoder.tokenizer_bytes
            made = Made(format=config.writes[1], bytes=size, weights=model.weights)
            return Forecast(made=made, work=START + 2e-8 * weights, ram_mb=held, parallel=False)
        case "compare":
            work = 2 * START + 4 * 2_000 * weights / FORWARD
            return Forecast(made=Made(format="comparison", bytes=500), work=work, ram_mb=held * 1.3)
        case "evaluate":
            tokens = counted.tokens("test", "second") + TIMED_TOKENS
            made = Made(format="evaluation", bytes=30_000)
            return Forecast(made=made, work=4 * START + 3 * tokens * weights / FORWARD, ram_mb=3 * held - 2 * TORCH)
        case "reload":
            return Forecast(made=Made(format="result", bytes=100), work=START, ram_mb=held)
        case _:
            return changed(config, model, weights, counted)


def changed(config: AnyStageConfig, model: Made, weights: float, counted: CountedDocuments) -> Forecast:
    """A stage that rounds, prunes or trains: passes over so many tokens, and what the weights take then."""
    bits = model.bits
    if isinstance(config, RoundDecoders | W8a8Config):
        bits = rounded(config, counted.decoder)
    elif isinstance(config, LlamaCppConfig):
        bits = llama_types.bits(config.type, counted.decoder)
    size = (bits or WHOLE_BITS) * weights / 8 + counted.decoder.tokenizer_bytes
    made = model.model_copy(update={"format": config.writes[1], "bytes": round(size), "bits": bits})
    trained = config.kind in {"distill", "correct"}
    tokens = read_by(config, counted)
    work = START + (3 * tokens * weights / TRAINING if trained else 2 * tokens * weights / FORWARD + 4e-7 * weights)
    return Forecast(made=made, work=work, ram_mb=TORCH + (20e-6 if trained else 8e-6) * weights)


def rounded(config: RoundDecoders | W8a8Config, decoder: Decoder) -> float:
    """Bits a weight that a rounding leaves, tables included; layers that are excepted count as the others.

    Tables that w8a8 leaves whole are halves there.
    """
    tables = decoder.tables / decoder.parameters
    if isinstance(config, W8a8Config):
        return BYTE_BITS * (1 - tables) + HALF_BITS * tables
    if config.target is not None:
        return config.target
    assert config.grid is not None
    return choices.bits_of(config.grid) * (1 - tables) + choices.bits_of(config.embedding or "q8_0") * tables


def in_blocks(config: MatmulNbitsConfig, bits: float, counted: CountedDocuments) -> float:
    """Bits a weight of a graph of MatMulNBits; of a target a mix of 4-bit and 8-bit blocks of as many bits."""
    rounding, split = counted.rounding, config.activations == "float"
    if rounding is None or rounding.grid is None:
        return BLOCK_BITS + (TABLE_BITS - BLOCK_BITS) * min(1.0, max(0.0, bits - BLOCK_BITS))
    table, tables = rounding.embedding or "q8_0", counted.decoder.tables / counted.decoder.parameters
    held = [choices.nbits_of(one, split) for one in (rounding.grid, table)]
    return held[0] * (1 - tables) + held[1] * tables


def kept(decoder: Decoder, layers: int | None) -> float:
    """Weights of the bottom layers with the tables."""
    if layers is None:
        return decoder.parameters
    return decoder.tables + (decoder.parameters - decoder.tables) * min(layers, decoder.layers) / decoder.layers


def read_by(config: AnyStageConfig, counted: CountedDocuments) -> float:
    """Tokens that a stage reads: steps of windows, windows, blocks for calibration, or none."""
    length = getattr(config, "length", counted.max_length)
    if steps := getattr(config, "steps", None):
        return float(steps * getattr(config, "batch", 1) * length)
    if windows := getattr(config, "windows", None):
        return float(min(windows * length, counted.tokens("train")))
    if not getattr(config, "importance", True):
        return 0.0
    return float(getattr(config, "calibration_blocks", 0) * getattr(config, "calibration_length", 0))
