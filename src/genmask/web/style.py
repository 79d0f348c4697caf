"""How the page looks: the visitor's own fonts and, like everything on it, nothing fetched from elsewhere."""

from __future__ import annotations

import gradio as gr

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.indigo,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    font=("ui-sans-serif", "system-ui", "sans-serif"),
    font_mono=("ui-monospace", "Consolas", "monospace"),
).set(
    body_background_fill="linear-gradient(180deg, #eef1ff 0, #f8fafc 22rem)",
    body_background_fill_dark="linear-gradient(180deg, #1a1c3a 0, #0b0f19 22rem)",
    block_shadow="0 1px 3px rgb(15 23 42 / 0.07)",
    block_border_color="#e2e8f0",
    block_border_color_dark="#273449",
    block_background_fill_dark="#121a2b",
    button_primary_background_fill="linear-gradient(90deg, #4f46e5, #7c3aed)",
    button_primary_background_fill_hover="linear-gradient(90deg, #4338ca, #6d28d9)",
    button_primary_background_fill_dark="linear-gradient(90deg, #4f46e5, #7c3aed)",
    button_primary_background_fill_hover_dark="linear-gradient(90deg, #6366f1, #8b5cf6)",
    button_primary_text_color="white",
)

CSS = """
.gradio-container { max-width: min(1180px, 100vw) !important; margin: 0 auto !important; }
.masthead { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .9rem; padding: 1.2rem .2rem .2rem; }
.masthead h1 { font-size: 2rem; font-weight: 800; letter-spacing: -.03em; margin: 0; }
.masthead h1 span {
  background: linear-gradient(90deg, #4f46e5, #c026d3); -webkit-background-clip: text; background-clip: text;
  color: transparent;
}
.dark .masthead h1 span { background-image: linear-gradient(90deg, #a5b4fc, #f0abfc); }
.masthead p { margin: 0; color: var(--body-text-color-subdued); }
.masthead code {
  margin-left: auto; padding: .15rem .7rem; border-radius: 99px; font-size: .8rem;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);
}
.cards { list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem; }
.card {
  display: flex; align-items: center; gap: .8rem; padding: .65rem .9rem; border-radius: 12px;
  background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  border-left: 6px solid var(--colour);
}
.card div { flex: 1; min-width: 0; overflow-wrap: anywhere; }
.card b { display: block; font-weight: 650; }
.card q { display: block; font-style: italic; color: var(--body-text-color-subdued); }
.card small { display: block; font-size: .78rem; font-weight: 400; color: var(--body-text-color-subdued); }
.card.empty { border-left-color: var(--border-color-primary); }
.card.empty b { color: var(--body-text-color-subdued); font-weight: 500; }
.confidence { text-align: right; font-variant-numeric: tabular-nums; font-weight: 650; white-space: nowrap; }
.confidence meter { width: 5.5rem; height: .55rem; margin-right: .5rem; vertical-align: middle; }
#examples .grid-wrap { min-height: 0; max-height: none; }
#examples .grid-container { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); margin-top: 1.3rem; }
#examples .caption-label {
  left: 0; right: 0; bottom: 0; max-width: none; border: 0; border-radius: 0; white-space: normal; text-align: left;
  font-size: .75rem; line-height: 1.25; padding: .35rem .5rem;
}
#drawn img { width: 100%; height: 100%; object-fit: contain; }
.hint {
  padding: 1.1rem; border-radius: 12px; text-align: center; color: var(--body-text-color-subdued);
  border: 1px dashed var(--border-color-primary);
}
@media (max-width: 640px) {
  .gradio-container .main { padding: .7rem !important; }
  .masthead h1 { font-size: 1.6rem; }
  .masthead code { margin-left: 0; }
  .confidence meter { width: 3rem; }
}
"""
