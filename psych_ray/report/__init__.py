"""From statistics to figures and the page."""
