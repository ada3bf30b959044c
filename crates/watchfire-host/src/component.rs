//! From a core module, as a compiler makes it, to a component.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A core module did not become a component.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The WIT could not be read.
    #[error("the contract in {place} cannot be read: {reason}")]
    Wit {
        /// Where.
        place: String,
        /// Why.
        reason: String,
    },
    /// The module does not fit the WIT.
    #[error("the module does not become a component: {0}")]
    Encode(String),
}

/// A core module, and what makes a component of it.
#[derive(Clone, Copy, Default)]
pub struct Core<'a> {
    /// The module.
    pub module: &'a [u8],
    /// A folder of WIT and the world that the module implements. Modules made with `wit-bindgen` carry what they import
    /// and export with them: `None`.
    pub wit: Option<(&'a Path, &'a str)>,
    /// A module that stands in for one that the core imports, by the name of that.
    pub adapter: Option<(&'a str, &'a [u8])>,
}

/// The component of a core module.
pub fn from_core(core: &Core<'_>) -> Result<Vec<u8>, ComponentError> {
    let mut module = core.module.to_vec();
    if let Some((folder, world)) = core.wit {
        let unreadable = |reason: String| ComponentError::Wit { place: folder.display().to_string(), reason };
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(folder).map_err(|error| unreadable(format!("{error:#}")))?;
        let world = resolve
            .select_world(&[package], Some(world))
            .map_err(|error| unreadable(format!("{error:#}")))?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .map_err(|error| ComponentError::Encode(format!("{error:#}")))?;
    }
    let encode = || {
        let mut encoder = ComponentEncoder::default().validate(true).module(&module)?;
        if let Some((name, adapter)) = core.adapter {
            encoder = encoder.adapter(name, adapter)?;
        }
        encoder.encode()
    };
    encode().map_err(|error| ComponentError::Encode(format!("{error:#}")))
}
