// What moonscope does differently from the script above. A later function of the same name replaces the earlier one.
var search_term = "";

// The name alone. With "(12 samples, 3.4%)" behind it, `foo$` would match nothing, and `1` nearly everything.
function g_to_func(e) {
    return g_to_text(e).replace(/ \([^(]*\)$/, "");
}

// Nothing, if the place that an address remembers is in no picture any more.
function find_group(node) {
    var parent = node && node.parentElement;
    if (!parent) return;
    return parent.id == "frames" ? node : find_group(parent);
}

function pattern(term) {
    try {
        return new RegExp(term);
    } catch (e) {
        return null;
    }
}

// Keeps the term in the address; a page inside another one may not be allowed to.
function remember_search(term) {
    var params = get_params();
    delete params.s;
    if (term) params.s = term;
    try {
        history.replaceState(null, null, parse_params(params));
    } catch (e) {}
}

function reset_search() {
    var rects = document.querySelectorAll("#frames rect");
    for (var i = 0; i < rects.length; i++) orig_load(rects[i], "fill");
}

function search_prompt() {
    if (searching) {
        reset_search();
        remember_search("");
        searching = 0;
        search_term = "";
        searchbtn.classList.remove("show");
        searchbtn.firstChild.nodeValue = "Search";
        matchedtxt.classList.add("hide");
        matchedtxt.firstChild.nodeValue = "";
        return;
    }
    var question = "Enter a search term (regexp allowed, eg: ^ext4_)";
    var term = prompt(question, "");
    while (term && !pattern(term))
        term = prompt("This is not a regular expression. " + question, term);
    if (term) search(term);
}

// Highlights what matches, and says how much of what is shown lies in it.
function search(term) {
    var re = pattern(term);
    if (!re) return;
    reset_search();
    searching = 1;
    search_term = term;
    var matches = [], shown = 0;
    for (var i = 0; i < frames.children.length; i++) {
        var e = frames.children[i];
        // Out of sight, or below the frame that was zoomed to.
        if (e.classList.contains("hide") || e.classList.contains("parent")) continue;
        var rect = find_child(e, "rect");
        var x = parseInt(rect.attributes["fg:x"].value), w = parseInt(rect.attributes["fg:w"].value);
        shown = Math.max(shown, w);
        if (!re.test(g_to_func(e))) continue;
        orig_save(rect, "fill");
        rect.attributes.fill.value = searchcolor;
        matches.push([x, w]);
    }
    // A match inside another one does not count again: the wider comes first, and hides what lies in it.
    matches.sort(function (a, b) { return a[0] - b[0] || b[1] - a[1]; });
    var matched = 0, end = 0;
    matches.forEach(function (m) {
        if (m[0] < end) return;
        matched += m[1];
        end = m[0] + m[1];
    });
    var percent = 100 * matched / shown;
    searchbtn.classList.add("show");
    searchbtn.firstChild.nodeValue = "Reset Search";
    matchedtxt.classList.remove("hide");
    matchedtxt.firstChild.nodeValue = "Matched: " + (percent == 100 ? percent : percent.toFixed(1)) + "%";
    remember_search(term);
}

// The percentage is of what is shown, so it is found anew when that changes.
function then_search_again(change) {
    return function (node) {
        change(node);
        if (searching) search(search_term);
    };
}
unzoom = then_search_again(unzoom);
zoom = then_search_again(function (zoom_to) {
    return function (node) { if (node) zoom_to(node); };
}(zoom));

// What matched stands by the button: at the bottom a tall picture hides it, and so does the name of a frame.
init = function (draw) {
    return function (evt) {
        draw(evt);
        // Between the lines of the title, which it would cover in a narrow window.
        matchedtxt.attributes.y.value = 1.5 * searchbtn.attributes.y.value;
    };
}(init);
