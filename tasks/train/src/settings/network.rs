//! Which network is trained, and what it begins with.

use std::borrow::Cow;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use swath_nets::Network;
use swath_task::PATH_MARK;

/// A network whose channels may be left out.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkChoice {
    /// The network, of one channel where none was told.
    pub network: Network,
    /// Whether its channels were told.
    pub channels_told: bool,
}

impl NetworkChoice {
    /// The network for images of these channels; `None` when it was asked for with others.
    pub(crate) fn of_channels(&self, channels: usize) -> Option<Network> {
        let mut network = self.network.clone();
        if !self.channels_told {
            match &mut network {
                Network::Unet { in_channels, .. }
                | Network::DeepLabV3Plus { in_channels, .. }
                | Network::ConvNext { in_channels, .. } => *in_channels = channels,
                Network::DualUnet { .. } => {}
            }
        }
        (network.in_channels() == channels).then_some(network)
    }
}

impl Serialize for NetworkChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut value = serde_json::to_value(&self.network).map_err(serde::ser::Error::custom)?;
        if let (false, Value::Object(fields)) = (self.channels_told, &mut value) {
            fields.shift_remove("in_channels");
        }
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NetworkChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let dual = fields.get("architecture").is_some_and(|name| name == "dual_unet");
        let channels_told = dual || fields.contains_key("in_channels");
        if !channels_told {
            fields.insert("in_channels".to_owned(), 1.into());
        }
        let network = serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)?;
        Ok(Self { network, channels_told })
    }
}

impl JsonSchema for NetworkChoice {
    fn schema_name() -> Cow<'static, str> {
        "NetworkChoice".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Network::json_schema(generator);
        let kinds = schema.get_mut("oneOf").and_then(Value::as_array_mut);
        for kind in kinds.into_iter().flatten() {
            if let Some(required) = kind["required"].as_array_mut() {
                required.retain(|name| name != "in_channels");
            }
        }
        schema
    }
}

/// What a network begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InitialWeights {
    /// Random weights.
    #[default]
    None,
    /// An encoder trained on ImageNet.
    ImageNet,
    /// A file, or a checkpoint folder.
    Path(PathBuf),
}

impl Serialize for InitialWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("none"),
            Self::ImageNet => serializer.serialize_str("imagenet"),
            Self::Path(path) => path.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for InitialWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "none" => Self::None,
            "imagenet" => Self::ImageNet,
            _ => Self::Path(text.into()),
        })
    }
}

impl JsonSchema for InitialWeights {
    fn schema_name() -> Cow<'static, str> {
        "InitialWeights".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A planned flow has absolute paths; the words stay words.
        json_schema!({ "anyOf": [
            { "enum": ["none", "imagenet"] },
            { "type": "string", "minLength": 1, (PATH_MARK): true },
        ] })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn channels_that_are_told_must_be_those_of_the_dataset() {
        let network = |value| serde_json::from_value::<NetworkChoice>(value).unwrap();
        let told = network(json!({"architecture": "unet", "in_channels": 3}));
        assert!(told.of_channels(4).is_none() && told.of_channels(3).is_some());
        let dual = network(json!({"architecture": "dual_unet", "optical_channels": 4}));
        assert!(dual.of_channels(4).is_none() && dual.of_channels(6).is_some());
    }

    #[test]
    fn only_a_bare_word_is_a_word() {
        for (text, wanted) in [
            ("none", InitialWeights::None),
            ("imagenet", InitialWeights::ImageNet),
            ("/flows/imagenet", InitialWeights::Path("/flows/imagenet".into())),
            ("/any/path/none", InitialWeights::Path("/any/path/none".into())),
            ("/flows/best.pth", InitialWeights::Path("/flows/best.pth".into())),
        ] {
            assert_eq!(serde_json::from_value::<InitialWeights>(json!(text)).unwrap(), wanted);
        }
    }
}
