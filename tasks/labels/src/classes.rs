//! Tables from what others call things to the numbers of classes.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_task::Problem;

/// A class, and the values that become it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Values of the attribute or map, texts or numbers.
    pub from: Vec<Name>,
    /// Number of the class: 0 for background, 1 and on for what is looked for.
    pub to: u8,
    /// What a person calls it; stored with the label.
    #[serde(default)]
    pub name: Option<String>,
}

/// A value as others write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Name {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Name {
    /// The class of this value in a table. Texts that are numbers are numbers: files disagree about which they are.
    pub fn class(&self, classes: &[Class]) -> Option<u8> {
        let same = |other: &Self| match (self.number(), other.number()) {
            (Some(own), Some(other)) => own == other,
            _ => self == other,
        };
        classes.iter().find(|class| class.from.iter().any(same)).map(|class| class.to)
    }

    /// The class that the value itself is.
    pub fn own_class(&self) -> Option<u8> {
        let number = self.number().filter(|number| number.fract() == 0.0 && (0.0..=255.0).contains(number))?;
        Some(number as u8)
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
        }
    }
}

/// What is wrong with a table.
pub fn check(classes: &[Class], problems: &mut Vec<Problem>) {
    for (index, class) in classes.iter().enumerate() {
        if class.from.is_empty() {
            problems.push(Problem::new(format!("/classes/{index}/from"), "at least one value is needed"));
        }
        for (place, name) in class.from.iter().enumerate() {
            if classes[..index].iter().any(|other| name.class(std::slice::from_ref(other)).is_some()) {
                let at = format!("/classes/{index}/from/{place}");
                problems.push(Problem::new(at, format!("`{name}` belongs to another class already")));
            }
        }
    }
}

/// The names of classes as metadata of a label: `CLASS_1`, `water`.
pub fn metadata(classes: &[Class]) -> Vec<(String, String)> {
    let named = classes.iter().filter_map(|class| Some((class.to, class.name.clone()?)));
    named.map(|(number, name)| (format!("CLASS_{number}"), name)).collect()
}
