"""What is scored: sources of transcripts, the responses marked in them, and conditions. Text only."""
