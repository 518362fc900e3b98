//! Distances as flows write them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A distance over the ground: `2 km`, `500 m`, or a number of metres.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Distance {
    /// In metres.
    pub metres: f64,
}

/// A text that is not a distance.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` is not a distance: write `500 m`, `2 km` or a number of metres")]
pub struct DistanceError(String);

impl Distance {
    /// So many metres.
    pub const fn metres(metres: f64) -> Self {
        Self { metres }
    }

    /// So many kilometres.
    pub const fn kilometres(kilometres: f64) -> Self {
        Self { metres: kilometres * 1000.0 }
    }
}

impl FromStr for Distance {
    type Err = DistanceError;
    fn from_str(text: &str) -> Result<Self, DistanceError> {
        let trimmed = text.trim();
        let (number, factor) = match (trimmed.strip_suffix("km"), trimmed.strip_suffix('m')) {
            (Some(number), _) => (number, 1000.0),
            (None, Some(number)) => (number, 1.0),
            (None, None) => (trimmed, 1.0),
        };
        let number: Option<f64> = number.trim().parse().ok().filter(|number: &f64| number.is_finite());
        number.map(|number| Self { metres: number * factor }).ok_or_else(|| DistanceError(text.to_owned()))
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.metres.abs() >= 1000.0 {
            write!(f, "{} km", self.metres / 1000.0)
        } else {
            write!(f, "{} m", self.metres)
        }
    }
}

impl Serialize for Distance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.metres)
    }
}

impl<'de> Deserialize<'de> for Distance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a distance: `500 m`, `2 km` or a number of metres")]
        enum Form {
            Number(f64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(metres) => Ok(Self { metres }),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl JsonSchema for Distance {
    fn schema_name() -> Cow<'static, str> {
        "Distance".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number"],
            "pattern": r"^\s*-?[0-9]+(\.[0-9]+)?\s*(k?m)?\s*$",
            "format": "distance",
            "examples": ["500 m", "2 km"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_has_a_unit_or_is_in_metres() {
        let of = |json: &str| serde_json::from_str::<Distance>(json).map(|distance| distance.metres);
        for (json, metres) in
            [("\"2 km\"", 2000.0), ("\"1.5km\"", 1500.0), ("\" 80 m \"", 80.0), ("\"7\"", 7.0), ("12.5", 12.5)]
        {
            assert_eq!(of(json).unwrap(), metres, "{json}");
        }
        for bad in ["\"\"", "\"km\"", "\"2 miles\"", "\"inf m\"", "\"NaN\"", "true"] {
            assert!(of(bad).unwrap_err().to_string().contains("`2 km` or a number of metres"), "{bad}");
        }
        assert_eq!(Distance::kilometres(2.0).to_string(), "2 km");
        assert_eq!(Distance::metres(250.0).to_string(), "250 m");
    }
}
