//! Spans of `oracle.lua`-checked sources are in `tests/`; here are names, syntax that few files have, and
//! what is not Lua at all. Lines and parameters given here were checked with `luajit -bl`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use proptest::prelude::*;

/// Names of the functions of a source in the order of their first lines.
fn names(text: &str) -> Vec<String> {
    let source = SourceFile::parse(text.as_bytes()).unwrap();
    source.functions()[1..]
        .iter()
        .map(|it| it.name.to_string())
        .collect()
}

/// First and last line, parameters, `...`, name.
fn spans(text: &str) -> Vec<(u32, u32, u32, bool, String)> {
    let source = SourceFile::parse(text.as_bytes()).unwrap();
    let functions = source.functions().iter();
    functions
        .map(|it| {
            (
                it.first_line,
                it.last_line,
                it.params,
                it.is_vararg,
                it.name.to_string(),
            )
        })
        .collect()
}

#[test]
fn a_function_is_called_what_its_definition_says() {
    for (text, name) in [
        ("function f() end", "f"),
        ("function a.b.c() end", "a.b.c"),
        ("function a.b:c() end", "a.b:c"),
        ("local function f() end", "f"),
        ("f = function() end", "f"),
        ("local f = function() end", "f"),
        ("local a, b = 1, function() end", "b"),
        ("a.x, a.y = nil, function() end", "a.y"),
        ("local f = g or function() end", "f"),
        ("local f = ok and g or function() end", "f"),
        ("a.b[\"k\"] = function() end", "a.b.k"),
        ("a.b['not a name'] = function() end", "a.b[\"not a name\"]"),
        ("a[1] = function() end", "a[1]"),
        ("a[i] = function() end", "a[i]"),
        ("a[i + 1] = function() end", "a[?]"),
        ("a[b.c] = function() end", "a[?]"),
        ("a[ [[k]] ] = function() end", "a.k"),
        ("f().x = function() end", "f().x"),
        ("local t = { k = function() end }", "t.k"),
        ("local t = { ['k'] = function() end }", "t.k"),
        ("local t = { [K] = function() end }", "t[K]"),
        ("local t = { 1, function() end }", "t[2]"),
        ("local t = { a = { b = function() end } }", "t.a.b"),
        ("_M.t = { k = function() end; }", "_M.t.k"),
        ("return { k = function() end }", "k"),
        ("return { function() end }", "anonymous"),
        ("setmetatable({}, { __index = function() end })", "__index"),
        ("pcall(function() end)", "anonymous in pcall"),
        ("ngx.timer.at(0, function() end)", "anonymous in ngx.timer.at"),
        ("obj:on('x', function() end)", "anonymous in obj:on"),
        ("require('x').y(function() end)", "anonymous in require().y"),
        ("local x = map(function() end)", "anonymous in map"),
        ("f { function() end }", "anonymous"),
        ("(function() end)()", "anonymous"),
        ("return function() end", "anonymous returned by main chunk"),
        ("goto = function() end", "goto"),
        ("local continue = function() end", "continue"),
        ("f\"x\".y = function() end", "f().y"),
        ("local größe = function() end", "größe"),
        ("t = { ['a\\n'] = function() end }", "t[\"a\\n\"]"),
        ("t['\u{1b}[31m'] = function() end", "t[\"\\u{1b}[31m\"]"),
    ] {
        assert_eq!(names(text), [name], "{text}");
    }
}

#[test]
fn a_returned_function_is_called_after_the_one_that_returns_it() {
    let text = "function make() return function() return function() end end end";
    let mut found = names(text);
    found.sort();
    assert_eq!(
        found,
        ["anonymous returned by make", "anonymous returned by make", "make"]
    );
}

#[test]
fn lines_are_those_of_the_words_that_luajit_takes() {
    let text = "local function\nf\n(a, ...\n)\nend\nfunction\ng\n(\n)\nend\nh = function\n(a,\nb)\nend\nfunction o:m(x)\nend";
    let expected = [
        (0, 16, 0, true, "main chunk"),
        (3, 5, 1, true, "f"),
        (6, 10, 0, false, "g"),
        (12, 14, 2, false, "h"),
        (15, 16, 2, false, "o:m"),
    ];
    assert_eq!(
        spans(text),
        expected.map(|(a, b, c, d, name)| (a, b, c, d, name.to_owned()))
    );
}

#[test]
fn what_looks_like_a_function_inside_strings_and_comments_is_none() {
    let text = "#!/usr/bin/luajit function a() end\n\
        --[==[ function b() end ]] ]=] ]==] local function f() end\n\
        --[ function c() end\n\
        local s = [[\nfunction d() end]] .. [=[ ]] function e() end ]=]\n\
        s = \"function g() end \\\" function h() end\" .. 'it\\'s' .. 'a\\\nb' .. \"a\\z\n   \n b\"\n\
        function last() end";
    let found = spans(text);
    let functions: Vec<_> = found.iter().map(|it| (it.0, it.4.as_str())).collect();
    assert_eq!(functions, [(0, "main chunk"), (2, "f"), (10, "last")]);
}

#[test]
fn all_kinds_of_numbers_and_line_breaks_are_read() {
    let text =
        "x = 0x1p-3 + 1e+5 + 3LL + 0xffULL + 2i + .5 + 1 ..'' \r\nx = 1 \n\rx = 2 \r x = 3\nfunction f() end";
    assert_eq!(spans(text)[1], (5, 5, 0, false, "f".to_owned()));
}

#[test]
fn labels_jumps_and_loops_have_their_own_ends() {
    let text = "for i = 1, 2 do if i then goto continue elseif x then else while a do repeat until b end end\n\
        ::continue:: end for k, v in pairs(t) do break end do local function f() return end end\nreturn";
    assert_eq!(names(text), ["f"]);
}

#[test]
fn the_syntax_extensions_of_2026_are_read() {
    let text = "const k = 1\nconst function c() end\nfor i = 1, 2 do if i != 1 && !k || k then continue end end\n\
        local f = x -> x + 1\nlocal g = |a, b| -> do return a end\n\
        local h = || -> 1\nx += 1; x ~= 2; x <<= 3; y = a?.b ?? c?.[1] ?? d:e?.()\nlocal z = a ? b : c.d\nn = 1_000_000";
    assert_eq!(names(text), ["c", "f", "g", "h"]);
}

#[test]
fn functions_on_one_line_are_told_apart_by_parameters_or_not_at_all() {
    let text =
        "local t = { a = function(x) end, b = function() end, c = function(...) end, d = function() end }";
    let source = SourceFile::parse(text.as_bytes()).unwrap();
    assert_eq!(source.name_of(1, 1, 1, false), Some("t.a"));
    assert_eq!(source.name_of(1, 1, 0, true), Some("t.c"));
    assert_eq!(source.name_of(1, 1, 0, false), None, "t.b or t.d");
    assert_eq!(source.name_of(1, 2, 0, false), None);
    assert_eq!(source.name_of(0, 1, 0, true), Some("main chunk"));
    let same = SourceFile::parse(b"f(function() end) f(function() end)").unwrap();
    assert_eq!(same.name_of(1, 1, 0, false), Some("anonymous in f"));
}

#[test]
fn what_is_not_lua_is_refused_with_its_line() {
    for (text, line) in [
        ("\u{1b}LJ\u{2}", 1),
        ("function f(", 1),
        ("x = 'no end\n'", 1),
        ("\n--[[ no end", 2),
        ("x =", 1),
        ("end", 1),
        ("function f() end end", 1),
        ("return function()\n\n", 3),
    ] {
        assert_eq!(
            SourceFile::parse(text.as_bytes()).unwrap_err().line,
            line,
            "{text:?}"
        );
    }
    let large = vec![b'\n'; MAX_SOURCE + 1];
    assert!(SourceFile::parse(&large).is_err());
}

#[test]
fn nesting_is_bounded_and_long_lists_are_not() {
    for open in ["(", "{", "f(", "function() return ", "a[", "-(", "x -> "] {
        let text = format!("return {}", open.repeat(100_000));
        assert_eq!(
            SourceFile::parse(text.as_bytes()).unwrap_err().what,
            "too deeply nested",
            "{open}"
        );
    }
    for open in ["do ", "if x then ", "while x do ", "repeat ", "function f() "] {
        assert_eq!(
            SourceFile::parse(open.repeat(100_000).as_bytes())
                .unwrap_err()
                .what,
            "too deeply nested"
        );
    }
    for text in [
        "x = 1".to_owned() + &" .. 1".repeat(100_000),
        "x = ".to_owned() + &"- ".repeat(100_000) + "1",
        "a".to_owned() + &".a".repeat(100_000) + "()",
        format!("x = {{{}}}", "1,".repeat(100_000)),
    ] {
        SourceFile::parse(text.as_bytes()).unwrap();
    }
    let long = format!("{}.{} = function() end", "a".repeat(500), "é".repeat(500));
    assert!(names(&long)[0].len() < 150);
    let many = "f=function()end ".repeat(MAX_FUNCTIONS + 1);
    assert_eq!(
        SourceFile::parse(many.as_bytes()).unwrap_err().what,
        "too many functions"
    );
}

/// Words that a mutilated source is made of.
const WORDS: [&str; 44] = [
    "function", "end", "local", "f", "=", "(", ")", "{", "}", "[", "]", "return", "if", "then", "else",
    "elseif", "do", "while", "for", "in", ",", ";", "repeat", "until", "not", "-", "#", "and", "..", "...",
    ":", "::", ".", "goto", "'x'", "[[", "]]", "--", "\n", "1", "|", "->", "?", "continue",
];

proptest! {
    #[test]
    fn any_bytes_are_a_source_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        _ = SourceFile::parse(&bytes);
    }

    #[test]
    fn any_words_are_a_source_or_an_error(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..60)) {
        let text = words.join(" ");
        if let Ok(source) = SourceFile::parse(text.as_bytes()) {
            let lines = 1 + text.matches('\n').count() as u32;
            for span in source.functions() {
                prop_assert!(span.first_line <= span.last_line && span.last_line <= lines);
            }
        }
    }

    #[test]
    fn a_blank_line_before_a_source_moves_all_functions_by_one(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..40)) {
        let text = words.join(" ");
        // Not at the beginning, where `#` has a meaning of its own.
        let text = format!("\n{text}");
        let moved = format!("\n{text}");
        let lines = |text: &str| SourceFile::parse(text.as_bytes()).map(|it| {
            it.functions().iter().skip(1).map(|it| (it.first_line, it.last_line, it.name.clone())).collect::<Vec<_>>()
        }).ok();
        let moved_back = lines(&moved).map(|all| all.into_iter().map(|it| (it.0 - 1, it.1 - 1, it.2)).collect());
        prop_assert_eq!(lines(&text), moved_back);
    }
}
