//! Which plugin of a gateway a Lua file belongs to.
//!
//! Apache APISIX keeps one in `apisix/plugins/NAME.lua`, or in a folder `apisix/plugins/NAME/`, wherever
//! the tree is (`extra_lua_path` has the same below it); those for streams are in `apisix/stream/plugins/`.

/// Folders that hold plugins, with their parents, wherever they are.
const FOLDERS: [&str; 2] = ["apisix/plugins/", "apisix/stream/plugins/"];

/// Where plugins are besides the usual folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginPaths(Vec<String>);

impl PluginPaths {
    /// These folders too: `/opt/gateway/plugins` has `/opt/gateway/plugins/NAME.lua`.
    pub fn new<T: AsRef<str>>(folders: impl IntoIterator<Item = T>) -> Self {
        let folders = folders.into_iter().filter_map(|folder| {
            let folder = folder.as_ref().trim_end_matches('/');
            (!folder.is_empty()).then(|| format!("{folder}/"))
        });
        Self(folders.collect())
    }

    /// Whether there are none besides the usual ones.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The plugin that a file belongs to.
    pub fn plugin_of<'a>(&self, file: &'a str) -> Option<&'a str> {
        let below_own = self
            .0
            .iter()
            .find_map(|folder| file.strip_prefix(folder.as_str()));
        below_own.or_else(|| below_usual(file)).and_then(name)
    }
}

/// What follows the innermost folder of plugins.
fn below_usual(file: &str) -> Option<&str> {
    let below = |folder: &str| {
        file.rmatch_indices(folder)
            .find(|(at, _)| *at == 0 || file[..*at].ends_with('/'))
            .map(|(at, _)| &file[at + folder.len()..])
    };
    FOLDERS
        .into_iter()
        .filter_map(below)
        .min_by_key(|rest| rest.len())
}

/// `limit-count` of `limit-count.lua`, `limit-count/init.lua`, `limit-count/local/x.lua`.
fn name(below: &str) -> Option<&str> {
    let first = match below.split_once('/') {
        Some((folder, _)) => folder,
        None => below
            .strip_suffix(".lua")
            .or_else(|| below.strip_suffix(".ljbc"))?,
    };
    (!first.is_empty()).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_is_named_by_its_file_or_folder() {
        let usual = PluginPaths::default();
        for (file, plugin) in [
            (
                "/usr/local/apisix/apisix/plugins/limit-count.lua",
                Some("limit-count"),
            ),
            ("apisix/plugins/limit-count/init.lua", Some("limit-count")),
            ("./apisix/plugins/ai-proxy/drivers/openai.lua", Some("ai-proxy")),
            ("/opt/apisix/stream/plugins/mqtt-proxy.lua", Some("mqtt-proxy")),
            ("/opt/custom/apisix/plugins/mine.lua", Some("mine")),
            ("/usr/local/apisix/apisix/plugin.lua", None),
            ("/srv/myapisix/plugins/x.lua", None),
            ("/usr/local/apisix/apisix/plugins/readme.txt", None),
            ("access_by_lua(nginx.conf:42)", None),
            ("", None),
        ] {
            assert_eq!(usual.plugin_of(file), plugin, "{file}");
        }
    }

    #[test]
    fn own_folders_are_looked_at_first() {
        let own = PluginPaths::new(["/opt/gateway/plugins/", "lua/steps", "/"]);
        assert_eq!(own.plugin_of("/opt/gateway/plugins/auth.lua"), Some("auth"));
        assert_eq!(own.plugin_of("lua/steps/quota/init.lua"), Some("quota"));
        assert_eq!(own.plugin_of("/opt/gateway/pluginsx/auth.lua"), None);
        assert_eq!(own.plugin_of("/a/apisix/plugins/cors.lua"), Some("cors"));
        assert!(PluginPaths::new(["/"]).is_empty());
    }
}
