//! What the script and the style of a flame graph do differently from inferno's: `svg_script.js` says why.
//!
//! Both are put behind inferno's, where a later definition replaces an earlier one, so that nothing of
//! its text has to be known here.

/// Our functions.
const SCRIPT: &str = include_str!("svg_script.js");
/// inferno's button for searching can hardly be seen before the mouse is on it.
const STYLE: &str = "#search { opacity:0.6; }\n";

/// The picture with our script and style behind inferno's.
pub(crate) fn extend(svg: &str) -> String {
    // Both come before any text of ours, and such text has no `<` of its own.
    svg.replacen("</style>", &format!("{STYLE}</style>"), 1).replacen(
        "]]></script>",
        &format!("\n{SCRIPT}]]></script>"),
        1,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A picture of inferno's, as it is.
    fn drawn() -> String {
        let mut svg = Vec::new();
        let mut options = inferno::flamegraph::Options::default();
        inferno::flamegraph::from_lines(&mut options, ["a;b 1"], &mut svg).unwrap();
        String::from_utf8(svg).unwrap()
    }

    /// Names of the functions that a script declares.
    fn functions(script: &str) -> Vec<&str> {
        let declared = script.lines().filter_map(|line| line.strip_prefix("function "));
        declared.filter_map(|rest| rest.split('(').next()).collect()
    }

    #[test]
    fn the_functions_and_elements_that_ours_use_or_replace_are_in_infernos_script() {
        let theirs = drawn();
        let known = functions(&theirs);
        for name in [
            "init",
            "zoom",
            "unzoom",
            "search",
            "search_prompt",
            "reset_search",
            "find_group",
            "find_child",
            "g_to_func",
            "g_to_text",
            "get_params",
            "parse_params",
            "orig_save",
            "orig_load",
        ] {
            assert!(known.contains(&name), "{name}: {known:?}");
        }
        for variable in ["searching", "frames", "searchbtn", "matchedtxt"] {
            let declared = theirs
                .lines()
                .any(|line| line.starts_with("var ") && line.contains(variable));
            assert!(declared, "{variable}");
        }
        assert!(theirs.contains("var searchcolor = "));
        for attribute in [
            "id=\"frames\"",
            "id=\"search\"",
            "id=\"matched\"",
            "fg:x=\"",
            "fg:w=\"",
        ] {
            assert!(theirs.contains(attribute), "{attribute}");
        }
    }

    #[test]
    fn ours_stand_behind_infernos_in_the_same_script() {
        let svg = extend(&drawn());
        assert_eq!(svg.matches("<script").count(), 1);
        let at = |text: &str| svg.find(text).unwrap();
        assert!(at("function init(evt)") < at(SCRIPT) && at(SCRIPT) < at("</script>"));
        assert!(at("#search { text-anchor") < at(STYLE) && at(STYLE) < at("</style>"));
        assert!(!SCRIPT.contains("]]>"), "it would end the CDATA section");
    }
}
