"""What each stage of a `generate` recipe leaves and takes, foretold from the decoder's and the documents' sizes.

A token is about BYTES_A_TOKEN bytes of English; every pass multiplies each weight once a token, and a training three
times. Constants were fitted to a run of the recipe `smollm2`.
"""

from pathlib import Path

from flows.forecast import bits_decoder, memory_decoder
from flows.forecast.amounts import BARE, FORWARD, TRAINING, Forecast, Made
from flows.recipe import Recipe
from registry.records import directory_bytes
from tasks import windows
from tasks.export.matmul_nbits import MatmulNbitsConfig
from tasks.generate import choices, documents, header, llama_types
from tasks.generate.adopt import gguf_of
from tasks.generate.documents import DocumentsConfig
from tasks.generate.header import Decoder
from tasks.generate.lesson import LessonConfig
from tasks.generate.top_k import LabelTopKConfig
from tasks.kinds import AnyStageConfig, RoundDecoders
from tasks.quantize.llama_cpp import LlamaCppConfig
from tasks.quantize.w8a8 import W8a8Config

BYTES_A_TOKEN = 4.3
START = 6.0  # seconds to import, load and save
BLOCK_BITS, TABLE_BITS, BYTE_BITS, HALF_BITS = 4.5, 8.5, 8.0, 16.0
JSON_PIECE, GGUF_PIECE = 72, 36  # bytes of the tokenizer a piece, in tokenizer.json and in a GGUF file
ANSWER = 128  # passes as long as it takes to write one that serving is metered with, word for word
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
        json = self.decoder.tokenizer_bytes if gguf_of(model) is None else JSON_PIECE * self.decoder.pieces
        self.tokenizer = {"lm": json, "gguf": GGUF_PIECE * self.decoder.pieces}  # bytes by format
        self.runtime = getattr(recipe.evaluate, "runtime", "transformers")
        self.source = Made(format="source", bytes=directory_bytes(model), weights=self.decoder.parameters)

    def tokens(self, *names: str) -> float:
        """About how many tokens some splits have."""
        return sum(self.sizes.get(name, 0) for name in names) / BYTES_A_TOKEN


def foretell(config: AnyStageConfig, inputs: dict[str, Made], counted: CountedDocuments) -> Forecast:
    """The forecast of a stage with these inputs by role."""
    decoder = counted.decoder
    model = next((one for one in inputs.values() if one.weights), counted.source)
    weights = float(model.weights or decoder.parameters)
    memory = memory_decoder.passing
    match config.kind:
        case "data":
            size = sum(counted.sizes.values()) * 1.02 + 30 * counted.rows + 300
            return Forecast(made=Made(format="rows", bytes=round(size)), work=0.3, ram_mb=BARE + 5e-6 * size)
        case "adopt" | "floor":
            weights, part = kept(decoder, getattr(config, "keep_layers", None)), config.kind == "floor"
            bits = BLOCK_BITS * (weights - decoder.tables) + TABLE_BITS * decoder.tables if part else 32 * weights
            size = round(bits / 8) + counted.tokenizer[config.writes[1]]
            made = Made(format=config.writes[1], bytes=size, weights=round(weights))
            held = memory_decoder.BLOCKS if part else memory_decoder.ADOPTED
            work = START + (1e-7 if part else 8e-8) * decoder.parameters
            return Forecast(made=made, work=work, ram_mb=memory(decoder.parameters, held))
        case "export":
            packed = config.writes[1] == "packed"  # whose zeros are not known yet
            bits, words = 32.0 if packed else model.bits or HALF_BITS, counted.tokenizer
            if config.writes[1] == "gguf" and counted.rounding is not None and choices.gguf_missing(counted.rounding):
                bits = HALF_BITS  # about: what its blocks cannot hold is written as halves
            bits = in_blocks(config, bits, counted) if isinstance(config, MatmulNbitsConfig) else bits
            size = round(bits * weights / 8) + words.get(config.writes[1], words["lm"])
            made = Made(format=config.writes[1], bytes=size, weights=model.weights)
            held = memory_decoder.COPIED if config.writes[1] == "gguf" else 4.0
            return Forecast(made=made, work=START + 2e-8 * weights, ram_mb=memory(weights, held), parallel=False)
        case "compare":
            held = memory_decoder.comparison(weights, decoder, model.bits is not None)
            work = 2 * START + 4 * 2_000 * weights / FORWARD
            made = Made(format="comparison", bytes=180)
            return Forecast(made=made, work=work, ram_mb=held)
        case "evaluate":
            tokens = counted.tokens("test", "second") + TIMED_TOKENS
            served = 2 * windows.TURNS * windows.seconds_of(ANSWER * weights / FORWARD, 5 * windows.ANSWERS)
            work = 4 * START + 3 * tokens * weights / FORWARD + served
            made = Made(format="evaluation", bytes=21_000)
            return Forecast(made=made, work=work, ram_mb=memory(weights, memory_decoder.JUDGED))
        case "reload":
            alone = BARE + 110 + 1e-6 * memory_decoder.READ * weights  # llama.cpp needs no torch
            ram = alone if counted.runtime == "llama_cpp" else memory(weights, 4.0)
            return Forecast(made=Made(format="result", bytes=100), work=START, ram_mb=ram)
        case _:
            length = next((one.length for one in inputs.values() if one.length), counted.max_length)
            return changed(config, model, weights, counted, getattr(config, "length", length))


def changed(config: AnyStageConfig, model: Made, weights: float, counted: CountedDocuments, length: int) -> Forecast:
    """A stage that rounds, prunes, answers or trains, in windows of so many tokens."""
    decoder, tokens = bits_decoder.sized(counted.decoder, weights), read_by(config, counted, length)
    work, ram = START + 2 * tokens * weights / FORWARD + 4e-7 * weights, memory_decoder.passing(weights)
    size = model.bytes if model.bits else 4 * weights + counted.tokenizer["lm"]
    made = model.model_copy(update={"format": config.writes[1], "bytes": round(size)})
    if isinstance(config, RoundDecoders):
        left = bits_decoder.rounded(config, decoder)
        made = made.model_copy(update={"bytes": round(left.bytes) + counted.tokenizer["lm"], "bits": left.bits})
    elif isinstance(config, LlamaCppConfig):
        bits = llama_types.bits(config.type, decoder)
        made = made.model_copy(update={"bytes": round(bits * weights / 8) + counted.tokenizer["gguf"], "bits": bits})
    elif isinstance(config, W8a8Config):
        bits = BYTE_BITS + (HALF_BITS - BYTE_BITS) * decoder.tables / decoder.parameters
        made = made.model_copy(update={"bytes": round(bits * weights / 8) + counted.tokenizer["lm"], "bits": bits})
    elif isinstance(config, LabelTopKConfig):
        ram = memory_decoder.answers(weights, decoder, config.batch * config.length)
        size = round(tokens * (6 * config.k + 2)) + 380  # number and chance of each piece; the mass of all others
        made = Made(format="top_k", bytes=size, length=length)
    elif isinstance(config, LessonConfig):
        work = START + 3 * tokens * weights / TRAINING
        ram = memory_decoder.training(config, weights, decoder, length)
    return Forecast(made=made, work=work, ram_mb=ram)


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


def read_by(config: AnyStageConfig, counted: CountedDocuments, length: int) -> float:
    """Tokens that a stage reads: steps of windows, windows, blocks for calibration, or none."""
    if steps := getattr(config, "steps", None):
        return float(steps * getattr(config, "batch", 1) * length)
    if windows := getattr(config, "windows", None):
        return float(min(windows * length, counted.tokens("train")))
    if not getattr(config, "importance", True):
        return 0.0
    return float(getattr(config, "calibration_blocks", 0) * getattr(config, "calibration_length", 0))
