//! Parameters, declared once: a type of the rule and the JSON Schema in its manifest.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Severity;

/// What a parameter can be. A text out of a few is an enum of [`crate::choice!`].
pub trait Parameter: Sized {
    /// Its type in JSON Schema.
    const TYPE: &'static str;
    /// The type of its entries, where it is a list.
    const ITEMS: &'static str = "";
    /// All that it can be, where that is a few texts.
    const CHOICES: &'static [&'static str] = &[];
    /// Takes it over; `None`: it is no such thing.
    fn from_json(value: &Value) -> Option<Self>;
}

impl Parameter for f64 {
    const TYPE: &'static str = "number";
    fn from_json(value: &Value) -> Option<Self> {
        value.as_f64()
    }
}

impl Parameter for i64 {
    const TYPE: &'static str = "integer";
    fn from_json(value: &Value) -> Option<Self> {
        // JSON has one kind of numbers: 5.0 is an integer.
        let whole = || value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i64);
        value.as_i64().or_else(whole)
    }
}

impl Parameter for u32 {
    const TYPE: &'static str = "integer";
    fn from_json(value: &Value) -> Option<Self> {
        i64::from_json(value)?.try_into().ok()
    }
}

impl Parameter for bool {
    const TYPE: &'static str = "boolean";
    fn from_json(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Parameter for String {
    const TYPE: &'static str = "string";
    fn from_json(value: &Value) -> Option<Self> {
        value.as_str().map(Into::into)
    }
}

impl<T: Parameter> Parameter for Vec<T> {
    const TYPE: &'static str = "array";
    const ITEMS: &'static str = T::TYPE;
    fn from_json(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(T::from_json).collect()
    }
}

impl Parameter for Severity {
    const TYPE: &'static str = "string";
    const CHOICES: &'static [&'static str] = &["info", "warning", "minor", "major", "critical"];
    fn from_json(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        Self::ALL.into_iter().find(|severity| severity.name() == text)
    }
}

/// The parameters of a deployment, taken one by one. What [`crate::parameters!`] expands to leans on it.
#[doc(hidden)]
pub struct Members(Map<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self)
    }
}

impl Members {
    /// The host fills defaults in; a test of a rule need not.
    pub fn take<T: Parameter, E: serde::de::Error>(&self, name: &str, schema: &str) -> Result<T, E> {
        let value = match self.0.get(name) {
            Some(value) => value,
            None => &default_of(name, schema)
                .ok_or_else(|| E::custom(format_args!("the parameter {name} is not given")))?,
        };
        T::from_json(value).ok_or_else(|| E::custom(format_args!("the parameter {name} cannot be {value}")))
    }
}

fn default_of(name: &str, schema: &str) -> Option<Value> {
    let schema: Value = serde_json::from_str(schema).ok()?;
    schema["properties"][name].get("default").cloned()
}

/// Reads parameters from a JSON object, as `start` gets them: for tests.
pub fn parameters_of<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// The parameters of a rule: a struct, and as its `SCHEMA` what the manifest says of them. A parameter is an
/// `f64`, an `i64` or `u32`, a `bool`, a `String`, a `Severity`, an enum of [`choice!`], or a `Vec` of these;
/// its comment is its description. Without a default it has to be given. Defaults and limits are written out.
///
/// ```
/// watchfire_rule::parameters! {
///     pub struct Parameters {
///         /// Alert when the pressure is above.
///         high: f64 = 12, minimum = 0, maximum = 400, unit = "bar";
///         /// Which of the devices stands for all.
///         leader: String;
///     }
/// }
/// assert!(Parameters::SCHEMA.contains(r#""required":["leader"]"#));
/// ```
///
/// What it cannot say (lists of objects, patterns) a schema as text can: any type that serde reads is
/// parameters, and any text is [`crate::Manifest::parameters`].
#[macro_export]
macro_rules! parameters {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident {
        $(
            $(#[doc = $doc:expr])*
            $field_visibility:vis $field:ident : $type:ty $(= $default:expr)? $(, $option:ident = $value:expr)*;
        )*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $visibility struct $name {
            $($(#[doc = $doc])* $field_visibility $field: $type),*
        }
        impl $name {
            /// The JSON Schema of these parameters.
            pub const SCHEMA: &'static str = {
                const DECLARED: &[$crate::schema::Declared] = &[$(
                    $crate::schema::Declared::of::<$type>(stringify!($field), &[$($doc),*])
                        $(.default(stringify!($default)))?
                        $(.$option($crate::parameters!(@$option $value)))*
                ),*];
                const LENGTH: usize = $crate::schema::length_of(DECLARED);
                const SCHEMA: $crate::schema::Schema<LENGTH> = $crate::schema::Schema::of(DECLARED);
                SCHEMA.as_str()
            };
        }
        impl<'de> $crate::serde::Deserialize<'de> for $name {
            fn deserialize<D: $crate::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::std::result::Result<Self, D::Error> {
                let members = <$crate::Members as $crate::serde::Deserialize>::deserialize(deserializer)?;
                let _ = &members;
                Ok(Self { $($field: members.take(stringify!($field), Self::SCHEMA)?),* })
            }
        }
    };
    (@unit $value:expr) => { $value };
    (@$option:ident $value:expr) => { stringify!($value) };
}

/// A parameter that is one of a few texts, as an enum.
///
/// ```
/// watchfire_rule::choice! {
///     pub enum Side { High = "high", Low = "low" }
/// }
/// watchfire_rule::parameters! {
///     struct Parameters {
///         /// Of which side of the limit it alerts.
///         side: Side = "high";
///     }
/// }
/// assert!(Parameters::SCHEMA.contains(r#""enum":["high","low"]"#));
/// ```
#[macro_export]
macro_rules! choice {
    ($(#[$meta:meta])* $visibility:vis enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $text:literal),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name { $($(#[$variant_meta])* $variant),* }
        impl $crate::Parameter for $name {
            const TYPE: &'static str = "string";
            const CHOICES: &'static [&'static str] = &[$($text),*];
            fn from_json(value: &$crate::Json) -> ::std::option::Option<Self> {
                match value.as_str()? {
                    $($text => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
