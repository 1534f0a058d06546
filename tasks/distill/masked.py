"""Masked language modelling: a student guesses pieces of its texts that are hidden from it.

BERT (Devlin et al. 2019, arXiv 1810.04805, section 3.1 and its published head): of the real pieces 15 % are chosen; of
these 80 % become the mask piece, 10 % any piece, 10 % stay. The guess is a linear layer, GELU and a norm, then a
product with the student's own word embedding and a bias for each piece. Pure functions of tensors, and that head.
"""

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

CHOSEN = 0.15  # of the real pieces
MASKED, REPLACED = 0.8, 0.1  # of the chosen; the rest stays as it is


class GuessHead(nn.Module):
    """From hidden states [n, d] to a score of each piece [n, pieces]; the table [pieces, e] is the student's own."""

    def __init__(self, width: int, table: nn.Embedding, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.turn = nn.Linear(width, table.embedding_dim)
        self.norm = nn.LayerNorm(table.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(table.num_embeddings))

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Scores of all pieces."""
        return functional.linear(self.norm(functional.gelu(self.turn(hidden))), table, self.bias)


def special_pieces(tokenizer: Tokenizer) -> Tensor:
    """The numbers of the pieces that are no text [n], which are never hidden."""
    return torch.tensor([number for number, piece in tokenizer.get_added_tokens_decoder().items() if piece.special])


def hide(ids: Tensor, mask: Tensor, special: Tensor, mask_id: int, pieces: int) -> tuple[Tensor, Tensor]:
    """Of ids and attention mask [b, t] what the student reads instead, and which pieces it must guess [b, t].

    Draws from torch's random numbers, which a training seeds and its checkpoints keep.
    """
    draw, how = torch.rand(ids.shape), torch.rand(ids.shape)
    chosen = (draw < CHOSEN) & (mask > 0) & ~torch.isin(ids, special)
    any_piece = torch.randint(pieces, ids.shape)
    read = torch.where(chosen & (how < MASKED), torch.full_like(ids, mask_id), ids)
    return torch.where(chosen & (how >= MASKED) & (how < MASKED + REPLACED), any_piece, read), chosen


def guess_loss(scores: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross-entropy of scores [n, pieces] with the pieces that were there [n]; 0 where none was hidden."""
    return functional.cross_entropy(scores, wanted) if len(wanted) else scores.sum()
