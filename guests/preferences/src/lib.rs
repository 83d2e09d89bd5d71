//! `per_user_preferences`: one user's settings, in the order in which they were first set.
#![cfg_attr(target_family = "wasm", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::{format, string::String};
use carrel_guest::{Context, Error, Function, IndexMap};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of the preferences.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreferencesConfig {
    /// What a new user starts with.
    #[serde(default = "light_english")]
    pub default_preferences: IndexMap<String, String>,
}

fn light_english() -> IndexMap<String, String> {
    [("theme", "light"), ("language", "en")].into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

/// Input for preference operations.
#[derive(Deserialize, JsonSchema)]
pub struct PreferenceInput {
    /// What to do: 'set', 'get' or 'list', in any case
    pub action: String,
    /// The preference's name, for 'set' and 'get'
    #[serde(default)]
    pub key: String,
    /// The new value, for 'set'
    #[serde(default)]
    pub value: String,
}

/// Output of preference operations.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct PreferenceOutput {
    /// Whether it was done
    pub success: bool,
    /// What was done, or why not
    pub message: String,
    /// The value, for 'get'
    pub value: String,
    /// All preferences, for 'set' and 'list'
    pub preferences: IndexMap<String, String>,
}

/// One user's preferences.
pub struct Preferences {
    preferences: IndexMap<String, String>,
}

fn answer(success: bool, message: impl Into<String>) -> PreferenceOutput {
    PreferenceOutput { success, message: message.into(), value: String::new(), preferences: IndexMap::default() }
}

impl Preferences {
    fn set(&mut self, key: String, value: String) -> PreferenceOutput {
        if key.is_empty() {
            return answer(false, "Key is required for 'set' action");
        }
        let message = format!("Preference '{key}' set to '{value}'");
        self.preferences.insert(key, value);
        PreferenceOutput { preferences: self.preferences.clone(), ..answer(true, message) }
    }

    fn get(&self, key: &str) -> PreferenceOutput {
        if key.is_empty() {
            return answer(false, "Key is required for 'get' action");
        }
        match self.preferences.get(key) {
            Some(value) => {
                PreferenceOutput { value: value.clone(), ..answer(true, format!("Preference '{key}' = '{value}'")) }
            }
            None => answer(false, format!("Preference '{key}' not found")),
        }
    }

    fn list(&self) -> PreferenceOutput {
        let answer = answer(true, format!("Found {} preferences", self.preferences.len()));
        PreferenceOutput { preferences: self.preferences.clone(), ..answer }
    }
}

impl Function for Preferences {
    const NAME: &'static str = "per_user_preferences";
    const SUMMARY: &'static str = "Keeps one user's preferences.";
    type Config = PreferencesConfig;
    type Input = PreferenceInput;
    type Output = PreferenceOutput;

    fn new(config: PreferencesConfig, _: &Context) -> Result<Self, Error> {
        Ok(Self { preferences: config.default_preferences })
    }

    fn call(&mut self, input: PreferenceInput, _: &Context) -> Result<PreferenceOutput, Error> {
        let action = carrel_guest::to_lowercase(&input.action);
        Ok(match action.as_str() {
            "set" => self.set(input.key, input.value),
            "get" => self.get(&input.key),
            "list" => self.list(),
            _ => answer(false, format!("Unknown action: {action}. Use 'set', 'get', or 'list'")),
        })
    }
}

carrel_guest::export!(Preferences);

#[cfg(test)]
mod tests {
    use super::*;

    fn preferences() -> impl FnMut(&str, &str, &str) -> PreferenceOutput {
        let config = PreferencesConfig { default_preferences: light_english() };
        let mut preferences = Preferences::new(config, &Context::test()).unwrap();
        move |action, key, value| {
            let input = PreferenceInput { action: action.into(), key: key.into(), value: value.into() };
            preferences.call(input, &Context::test()).unwrap()
        }
    }

    #[test]
    fn preferences_keep_the_order_in_which_they_were_first_set() {
        let mut pref = preferences();
        pref("set", "color", "blue");
        pref("Set", "theme", "dark");
        let listed = pref("list", "", "");
        assert_eq!(listed.message, "Found 3 preferences");
        let pairs: Vec<_> = listed.preferences.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("theme", "dark"), ("language", "en"), ("color", "blue")]);
    }

    #[test]
    fn a_preference_that_is_not_set_is_not_found() {
        let answer = preferences()("get", "nope", "");
        assert_eq!((answer.success, answer.message.as_str()), (false, "Preference 'nope' not found"));
    }

    #[test]
    fn an_empty_value_is_a_value_and_an_empty_key_is_refused() {
        let mut pref = preferences();
        pref("set", "color", "");
        assert_eq!(pref("get", "color", "").message, "Preference 'color' = ''");
        assert!(!pref("set", "", "x").success);
    }
}
