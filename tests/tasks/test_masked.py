"""Masked language modelling: what is hidden and how often, the loss against transformers' own, what it refuses."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from registry.records import ShrinkError
from tasks.distill import masked
from tasks.distill.triple import mask_piece
from tests.tasks.test_torch_stages import make_tokenizer


def test_pieces_are_hidden_as_often_as_bert_says_and_never_those_that_are_no_text() -> None:
    torch.manual_seed(0)
    ids = torch.randint(5, 1000, (400, 50))
    ids[:, 0], ids[:, 40:] = 2, 0
    mask = (torch.arange(50) < 40).long().expand(400, 50)
    read, chosen = masked.hide(ids, mask, torch.tensor([0, 2, 3]), 4, 1000)
    real = mask.bool() & (ids > 4)
    assert not chosen[~real].any() and torch.equal(read[~chosen], ids[~chosen])
    assert float(chosen.sum() / real.sum()) == pytest.approx(0.15, abs=0.01)
    among = read[chosen], ids[chosen]
    assert float((among[0] == 4).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((among[0] == among[1]).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_the_guess_equals_the_head_of_transformers() -> None:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLMPredictionHead

    torch.manual_seed(1)
    config = BertConfig(vocab_size=40, hidden_size=16, num_attention_heads=2, layer_norm_eps=1e-5)
    theirs, table = BertLMPredictionHead(config), torch.nn.Embedding(40, 16)
    ours = masked.GuessHead(16, table, seed=0)
    ours.turn.load_state_dict(theirs.transform.dense.state_dict())
    theirs.decoder.weight, theirs.decoder.bias = table.weight, ours.bias
    hidden, wanted = torch.randn(7, 16), torch.randint(40, (7,))
    with torch.no_grad():
        scores = ours(hidden, table.weight)
        assert torch.allclose(scores, theirs(hidden), atol=1e-6)
    by_hand = -torch.log_softmax(scores, -1)[torch.arange(7), wanted].mean()
    assert float(masked.guess_loss(scores, wanted)) == pytest.approx(float(by_hand), rel=1e-6)
    assert float(masked.guess_loss(scores[:0], wanted[:0])) == 0.0


def test_a_tokenizer_without_a_mask_piece_is_refused() -> None:
    assert make_tokenizer().id_to_token(mask_piece(make_tokenizer())) == "[MASK]"
    with pytest.raises(ShrinkError, match=r"masked_weight needs a tokenizer with a piece \[MASK\] or <mask>: set it"):
        mask_piece(Tokenizer(WordLevel({"a": 0}, unk_token="a")))
