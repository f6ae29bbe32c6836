"""How the page looks: Gradio's variables, so that light and dark follow the reader's choice."""

from gradio.themes import Default, colors

THEME = Default(
    primary_hue=colors.blue,
    neutral_hue=colors.slate,
    # Of the reader's own system: no font is fetched, from anywhere.
    font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"),
    font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
).set(
    # Gradio's own greys are too faint: these keep 4.5 to 1 with what is behind them.
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
)

CSS = """
:root{--ld-good:#0b6b37;--ld-good-bg:#e6f4eb;--ld-bad:#a81c15;--ld-bad-bg:#fdeae8;--ld-warn:#7a4f00;--ld-warn-bg:#fff3d9;
--ld-bar:#2f6fb5;--ld-track:#e3e8ee;--ld-chosen:#1d4ed8}
.dark{--ld-good:#79d8a0;--ld-good-bg:#14301f;--ld-bad:#ffa299;--ld-bad-bg:#421c18;--ld-warn:#f3c76f;--ld-warn-bg:#382c12;
--ld-bar:#6ea6e6;--ld-track:#38404c;--ld-chosen:#93c5fd}
.gradio-container{width:100%;max-width:78rem!important;margin:0 auto!important;font-variant-numeric:tabular-nums;
.block:has(.md:empty){display:none}
/* Its trimming and its way back fetch a converter from another site; the fields beside it choose a part. */
#ld-video [aria-label^="Trim video"],#ld-video [aria-label^="Reset video"]{display:none}
#ld-video .video-container,#ld-video .upload-container{min-height:16rem}
#ld-video video{max-height:22rem;width:100%}
input[role=combobox]{padding-right:1.6rem;text-overflow:ellipsis}
#ld-fetch{align-self:stretch}
.ld-chooser{display:none!important}
#ld-head h1{font-size:1.6rem;line-height:1.2;margin:.2rem 0 .1rem}
#ld-head p{margin:0;color:var(--body-text-color-subdued)}
#ld-head .ld-badge{display:inline-block;padding:.05rem .6rem;border-radius:1rem;font-size:.85rem;font-weight:600;
border:1px solid currentColor;color:var(--ld-good);margin-left:.3rem}
.ld-answer{min-height:15.5rem}
.ld-empty{min-height:15.5rem;display:grid;place-items:center;border:1px dashed var(--border-color-primary);border-radius:.7rem;
color:var(--body-text-color-subdued);padding:1rem;text-align:center}
.ld-label{font-size:1.7rem;font-weight:650;line-height:1.2;margin:.1rem 0;overflow-wrap:anywhere}
.ld-soft{color:var(--body-text-color-subdued);font-size:.9rem;margin:.25rem 0 .6rem}
.ld-good,.ld-warn,.ld-problem{border-radius:.6rem;padding:.5rem .8rem;margin:.4rem 0;font-weight:500}
.ld-good{color:var(--ld-good);background:var(--ld-good-bg)}
.ld-warn{color:var(--ld-warn);background:var(--ld-warn-bg)}
.ld-problem{color:var(--ld-bad);background:var(--ld-bad-bg)}
ol.ld-bars{list-style:none;margin:.6rem 0;padding:0;display:grid;grid-template-columns:minmax(5rem,max-content) 1fr max-content;
gap:.45rem .8rem;align-items:center}
.ld-bars li{display:grid;grid-column:1/-1;grid-template-columns:subgrid;align-items:center;margin:0}
.ld-name{overflow-wrap:anywhere}
.ld-bar{height:.65rem;border-radius:.35rem;background:var(--ld-track);overflow:hidden;display:block}
.ld-bar i{display:block;height:100%;background:var(--ld-bar);border-radius:.35rem}
.ld-bars b{font-weight:600;text-align:right}
.ld-frames{display:grid;grid-template-columns:repeat(auto-fill,minmax(4.5rem,1fr));gap:.5rem}
.ld-frames figure{margin:0}
.ld-frames img{width:100%;height:auto;border-radius:.4rem;display:block;background:var(--ld-track)}
.ld-frames figcaption{font-size:.8rem;text-align:center;color:var(--body-text-color-subdued)}
.ld-columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(17rem,100%),1fr));gap:.8rem}
.ld-column{border:1px solid var(--border-color-primary);border-radius:.7rem;padding:.8rem 1rem}
#ld-segment h2{font-size:1.1rem;margin:.6rem 0 0}
.ld-column h2{margin:0;font-size:.95rem;color:var(--body-text-color-subdued)}
.ld-column .ld-label{font-size:1.25rem}
.ld-examples{min-height:15rem;align-content:start;display:grid;grid-template-columns:repeat(auto-fill,minmax(5.2rem,1fr));gap:.5rem}
.ld-examples button{display:flex;flex-direction:column;align-items:center;font-weight:500;
border:1px solid var(--border-color-primary);border-radius:.6rem;padding:.3rem;background:var(--block-background-fill);
color:inherit;cursor:pointer;font-size:.8rem;overflow-wrap:anywhere}
.ld-examples button:hover{border-color:var(--ld-bar)}
.ld-examples button:focus-visible{outline:3px solid var(--ld-bar)}
.ld-examples img{width:100%;aspect-ratio:1;object-fit:cover;border-radius:.35rem;display:block;margin-bottom:.2rem}
.ld-timeline{min-height:0}
.ld-strip{position:relative;height:3.2rem;border-radius:.6rem;background:var(--ld-track);overflow:hidden}
.ld-strip button{position:absolute;top:0;bottom:0;border:0;margin:0;box-sizing:border-box;padding:0;
box-shadow:inset -1px 0 var(--body-background-fill);
min-width:0;background:hsl(var(--hue) var(--much) 78%);color:#14171c;font-weight:600;font-size:.85rem;overflow:hidden;white-space:nowrap;
text-overflow:ellipsis;cursor:pointer}
.ld-strip button *{color:#14171c}
.ld-strip button[aria-pressed=true]{box-shadow:inset 0 0 0 3px #14171c}
.ld-strip button:focus-visible,.ld-segments button:focus-visible{outline:3px solid var(--ld-bar);outline-offset:-3px}
.ld-axis{display:flex;justify-content:space-between;font-size:.8rem;color:var(--body-text-color-subdued);margin:.2rem 0 .8rem}
ol.ld-segments{list-style:none;padding:0;margin:0;max-height:18rem;overflow-y:auto}
.ld-segments li{margin:0}
.ld-segments button{display:grid;grid-template-columns:1rem 9.5rem 1fr max-content;gap:.6rem;align-items:center;width:100%;text-align:left;
padding:.45rem .5rem;border:0;border-radius:.4rem;background:none;color:inherit;cursor:pointer;font:inherit}
.ld-segments button:hover{background:var(--ld-track)}
.ld-segments button[aria-pressed=true]{background:var(--ld-track)}
.ld-dot{width:.9rem;height:.9rem;border-radius:50%;background:hsl(var(--hue) var(--much) 70%)}
#ld-about table,#ld-card table{border:0!important}
#ld-about,#ld-card{min-width:0;overflow-x:auto;overflow-wrap:anywhere}
#ld-card pre,#ld-card pre code{white-space:pre-wrap}
#ld-about code{display:inline;white-space:normal;overflow-wrap:anywhere}
#ld-about table{border-collapse:collapse;width:100%;margin:0 0 1rem;font-size:.92rem}
#ld-about table :is(th,td){text-align:left;padding:.4rem .8rem .4rem 0!important;border:0!important;vertical-align:top;
border-bottom:1px solid var(--border-color-primary)!important;overflow-wrap:anywhere}
#ld-about th{white-space:nowrap}
#ld-about h2{font-size:1.05rem;margin:1.2rem 0 .3rem}
#ld-about ul{columns:11rem;padding-left:1.1rem;margin:0}
#ld-about iframe{width:100%;height:34rem;border:1px solid var(--border-color-primary);border-radius:.7rem;background:#fff}
#ld-card table :is(th,td){border:0;border-bottom:1px solid var(--border-color-primary);padding:.4rem .6rem .4rem 0}
#ld-card h1{font-size:1.3rem}#ld-card h2{font-size:1.1rem}
.tab-container button{padding-inline:.7rem}
.tab-container button.selected{color:var(--ld-chosen)}
#ld-card pre,#ld-card code{background:var(--ld-track);border-radius:.3rem;padding:.1rem .3rem}
@media (max-width:40rem){&,.main,.main>.wrap,main.contain{min-width:0!important;max-width:100%}
#ld-card table{display:block;overflow-x:auto}
.ld-examples{display:flex;overflow-x:auto;min-height:0;padding-bottom:.3rem}
.ld-examples button{flex:0 0 4.8rem}
.column{max-width:100%}
.main.app{padding:.5rem!important}
.tab-container button{padding-inline:.45rem;font-size:.92rem}
.ld-label{font-size:1.4rem}.ld-segments button{grid-template-columns:1rem 1fr max-content}
.ld-segments button b{grid-column:2}.ld-segments button span:last-child{grid-row:1;grid-column:3}}
@media (prefers-reduced-motion:reduce){*{transition:none!important;animation:none!important}}
}
"""

_CHOOSE = """
document.addEventListener('click', event => {
  const chosen = event.target.closest('[data-choose]');
  const chooser = chosen && document.getElementById(chosen.closest('[data-chooser]').dataset.chooser);
  const field = chooser && chooser.querySelector('textarea, input');
  if (!field) return;
  field.value = chosen.dataset.choose + ' ' + Date.now();  // the time, so that it is another value each time
  field.dispatchEvent(new Event('input', {bubbles: true}));
  for (const one of chosen.closest('[data-chooser]').querySelectorAll('[aria-pressed]'))
    one.setAttribute('aria-pressed', one.dataset.choose === chosen.dataset.choose);
});
// Screen readers tell what changes in a place that was there, and marked, before.
new MutationObserver(() => {
  for (const place of document.querySelectorAll(
    '#ld-answer, #ld-comparison, #ld-timeline, #ld-segment, [id^=ld-][id$=-problem]'))
    if (!place.hasAttribute('aria-live')) place.setAttribute('aria-live', 'polite');
}).observe(document.documentElement, {childList: true, subtree: true});
"""
"""Tells Gradio which of our own buttons was used, by mouse or keyboard."""

HEAD = f"<style>{CSS}</style><script>{_CHOOSE}</script>"
"""Of the page: Gradio itself would change the selectors, and add the script in a way that is forbidden here."""
