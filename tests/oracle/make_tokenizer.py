"""Makes tests/fixtures/tokenizer.json: byte-level BPE, 384 tokens, trained on the text below."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXT = """
The daemon answers one request after another, and every answer begins with a prompt. Tokens go in,
tokens come out; what lies between them is a stack of matrices and the memory of what was said
before. A model that is small and random says nothing of interest, but it says the same thing every
time, and that is all that a test asks of it. When the numbers agree to the last token, the code
that reads the weights, rotates the positions and keeps the cache is the code that we meant.
def main(): return {"name": "value", "list": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}
"""
SPECIALS = [
    "<|endoftext|>", "<|begin_of_text|>", "<|im_start|>", "<|im_end|>",
    "<think>", "</think>", "<tool_call>", "</tool_call>",
]


def new_tokenizer(model):
    """Byte-level BPE, as Llama 3 and Qwen use it."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def special_tokens():
    """The first four are special; the others are added tokens whose text is kept."""
    return [AddedToken(text, special=i < 4, normalized=False) for i, text in enumerate(SPECIALS)]


def finish(tokenizer):
    """Adds the specials and the beginning-of-text rule; returns tokenizer.json's text in ASCII."""
    tokenizer.add_tokens(special_tokens())
    begin = SPECIALS[1]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return json.dumps(json.loads(tokenizer.to_str()), separators=(",", ":")) + "\n"


def main():
    tokenizer = new_tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=special_tokens(),
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    assert tokenizer.get_vocab_size() == 384
    path = Path(__file__).parent.parent / "fixtures" / "tokenizer.json"
    path.write_text(finish(tokenizer))


if __name__ == "__main__":
    main()
