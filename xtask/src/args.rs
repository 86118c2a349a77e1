//! The command line of a task: flags and options, each taken by name; what is left over is an error.

/// The words after the task's name.
pub(crate) struct Args {
    words: Vec<String>,
}

impl Args {
    pub(crate) fn new(words: Vec<String>) -> Self {
        Self { words }
    }

    /// Takes `--name` out; whether it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|word| word != name);
        self.words.len() != before
    }

    /// Takes `--name VALUE` or `--name=VALUE` out.
    pub(crate) fn option(&mut self, name: &str) -> Result<Option<String>, String> {
        let mut found = None;
        let mut at = 0;
        while at < self.words.len() {
            let value = if self.words[at] == name {
                self.words.remove(at);
                if at == self.words.len() || self.words[at].starts_with("--") {
                    return Err(format!("{name} needs a value"));
                }
                self.words.remove(at)
            } else if let Some(value) = self.words[at].strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
                let value = value.to_owned();
                self.words.remove(at);
                value
            } else {
                at += 1;
                continue;
            };
            if found.replace(value).is_some() {
                return Err(format!("{name} was given twice"));
            }
        }
        Ok(found)
    }

    /// As [`option`](Self::option), for a whole number of at least 1.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.option(name)? else { return Ok(None) };
        match text.parse() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(format!("{name} needs a whole number of at least 1, not `{text}`")),
        }
    }

    /// Refuses what no flag or option has taken.
    pub(crate) fn finish(self) -> Result<(), String> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(format!("`{word}` is unknown here (`cargo xtask` lists the tasks)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::new(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn flags_and_options_are_taken_in_any_order() {
        let mut args = args(&["--seconds", "20", "--quick", "--target=decoder"]);
        assert_eq!(args.option("--target"), Ok(Some("decoder".to_owned())));
        assert!(args.flag("--quick"));
        assert!(!args.flag("--quick"));
        assert_eq!(args.number("--seconds"), Ok(Some(20)));
        assert_eq!(args.finish(), Ok(()));
    }

    #[test]
    fn a_missing_value_a_bad_number_and_a_leftover_are_errors() {
        assert!(args(&["--seconds"]).number("--seconds").is_err());
        assert!(args(&["--seconds", "--quick"]).number("--seconds").is_err());
        assert!(args(&["--seconds", "0"]).number("--seconds").is_err());
        assert!(args(&["--seconds", "1", "--seconds", "2"]).number("--seconds").is_err());
        assert!(args(&["--sceonds"]).finish().is_err());
    }
}
