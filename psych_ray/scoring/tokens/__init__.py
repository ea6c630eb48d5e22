"""From spans of characters in a text to spans of its tokens, and the chat templates of tokenizers."""
