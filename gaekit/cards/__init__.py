"""What a tokenizer is worth before any denoiser is trained on it: a card of each, and several beside each other."""

from gaekit.cards.arena import Arena
from gaekit.cards.card import Card, read_card
from gaekit.cards.making import Wanted, make_cards

__all__ = ["Arena", "Card", "Wanted", "make_cards", "read_card"]
