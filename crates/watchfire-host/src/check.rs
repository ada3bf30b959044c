//! What can be said of a component without compiling it: what it imports and exports. Everything outside
//! the contract is refused here, by name, before the slow compile.

use serde::Serialize;
use wasmparser::component_types::ComponentEntityType;
use wasmparser::{Encoding, Parser, Payload, ValidPayload, Validator, WasmFeatures};
use watchfire_model::call::CallFailure;

use crate::parts::Parts;

/// The largest component that is taken. SpiderMonkey is 12 MB, Python 18; four times that bounds what one
/// upload makes the host read, hash and keep.
pub(crate) const LARGEST: usize = 64 << 20;

/// Version of the contract that this host offers.
const VERSION: (u64, u64, u64) = (0, 1, 0);

/// The interfaces that a module may import, each with its functions.
const IMPORTS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("readings", &["stream-name", "rows", "columns", "devices", "times", "numbers", "texts", "booleans"]),
    ("clock", &["now"]),
    ("devices", &["name", "attribute", "find", "selected", "version"]),
    ("alerts", &["trigger", "clear"]),
    ("output", &["keep", "derive", "emit"]),
    ("state", &["load", "store"]),
    ("timers", &["set", "cancel"]),
    ("config", &["get", "json"]),
    ("log", &["write"]),
];

/// Why a module is not taken. Each says what to look for in the module.
#[derive(Debug, thiserror::Error)]
pub enum RefusalError {
    /// Its size.
    #[error("the module has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes.
        size: usize,
        /// Bytes.
        limit: usize,
    },
    /// It does not begin like WebAssembly.
    #[error("this is not WebAssembly")]
    NotWasm,
    /// A core module.
    #[error("this is a core WebAssembly module; a rule is a component (see `watchfire rule build`)")]
    CoreModule,
    /// It breaks the format, or uses a proposal that is not part of the contract.
    #[error("the component is malformed: {0}")]
    Malformed(String),
    /// Imports that no rule gets.
    #[error("the module imports what a rule does not get: {}", .names.join(", "))]
    Imports {
        /// All of them, as in the component.
        names: Vec<String>,
    },
    /// A function of an interface of the contract that this version does not have.
    #[error("the module imports {interface}.{function}, which this version of the contract does not have")]
    Function {
        /// The interface.
        interface: String,
        /// The function.
        function: String,
    },
    /// Built for a version of the contract that this host does not speak.
    #[error("the module is built for {name}, this host speaks watchfire:rule@0.1")]
    ContractVersion {
        /// The import or export that says so.
        name: String,
    },
    /// It does not export the handler.
    #[error("the module does not export watchfire:rule/handler@0.1.0, which every rule must")]
    NoHandler,
    /// It could not be compiled or linked.
    #[error("the module does not compile: {0}")]
    Compile(String),
    /// `describe` failed.
    #[error("the module does not say what it is: {0}")]
    Describe(CallFailure),
    /// What `describe` answered cannot be used.
    #[error("the module's manifest is no good: {0}")]
    Manifest(String),
    /// Too many modules are waiting to be compiled.
    #[error("{0} modules are waiting to be compiled already: try again later")]
    Busy(usize),
    /// The bytes of the module are not at hand.
    #[error("no module {0} is stored")]
    Unknown(watchfire_model::Digest),
    /// The bytes of the module could not be read.
    #[error("the module cannot be read: {0}")]
    Unreadable(String),
}

/// What a component imports and exports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Functions of the contract that it imports, as `alerts.trigger`: its capabilities.
    pub imports: Vec<String>,
    /// Interfaces of the contract that it exports, as `handler`.
    pub exports: Vec<String>,
    /// Languages it was written in and tools that made it, as its producers section says.
    pub language: String,
}

/// Reads a component without compiling it; refuses what is outside of the contract. Bodies of functions are
/// not looked at: the compiler validates them.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, RefusalError> {
    if bytes.len() > LARGEST {
        return Err(RefusalError::TooLarge { size: bytes.len(), limit: LARGEST });
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(RefusalError::NotWasm);
    }
    let malformed = |error: wasmparser::BinaryReaderError| RefusalError::Malformed(error.to_string());
    // What wasmtime is configured for; it validates once more when it compiles.
    let mut validator = Validator::new_with_features(WasmFeatures::default());
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let (mut depth, mut types, mut producers) = (0_usize, None, Producers::default());
    let mut parts = Parts::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(malformed)?;
        match &payload {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(RefusalError::CoreModule);
            }
            Payload::Version { .. } => depth += 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section.clone() {
                    imports.push(import.map_err(malformed)?.name.name.to_string());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section.clone() {
                    exports.push(export.map_err(malformed)?.name.name.to_string());
                }
            }
            Payload::CustomSection(section) => producers.read(section),
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        if let ValidPayload::End(found) = validator.payload(&payload).map_err(malformed)?
            && depth == 0
        {
            types = Some(found);
        }
        parts.read(&payload).map_err(|text| RefusalError::Malformed(text.into_owned()))?;
    }
    let types = types.ok_or_else(|| RefusalError::Malformed("it ends early".into()))?;
    let types = types.as_ref();

    let mut functions = Vec::new();
    let mut foreign = Vec::new();
    for name in imports {
        let known = contract_name(&name)?.and_then(|known| IMPORTS.iter().find(|known_| known_.0 == known));
        let Some((interface, known)) = known else {
            foreign.push(name);
            continue;
        };
        let Some(ComponentEntityType::Instance(instance)) =
            types.component_item_for_import(&name).map(|item| item.ty)
        else {
            foreign.push(name);
            continue;
        };
        for (function, item) in &types[instance].exports {
            if !matches!(item.ty, ComponentEntityType::Func(_)) {
                continue;
            }
            if !known.contains(&function.as_str()) {
                return Err(RefusalError::Function { interface: name, function: function.clone() });
            }
            functions.push(format!("{interface}.{function}"));
        }
    }
    if !foreign.is_empty() {
        return Err(RefusalError::Imports { names: foreign });
    }
    // Other exports are ignored: some languages' tools add their own.
    let mut offered = Vec::new();
    for name in exports {
        if let Some(interface) = contract_name(&name)? {
            offered.push(interface.to_string());
        }
    }
    if !offered.iter().any(|interface| interface == "handler") {
        return Err(RefusalError::NoHandler);
    }
    Ok(Inspection { imports: functions, exports: offered, language: producers.language() })
}

/// The interface of the contract that an import or export names; `None`: it is of another package. Versions
/// are compatible as the Component Model has it: 0.1.7 is one of 0.1, 0.2.0 is not.
fn contract_name(name: &str) -> Result<Option<&str>, RefusalError> {
    let Some(rest) = name.strip_prefix("watchfire:rule/") else { return Ok(None) };
    let (interface, version) = rest.split_once('@').unwrap_or((rest, ""));
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse::<u64>().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    if (major, minor) == (Some(VERSION.0), Some(VERSION.1)) {
        Ok(Some(interface))
    } else {
        Err(RefusalError::ContractVersion { name: name.to_string() })
    }
}

/// What the producers sections of a component and of the modules in it say.
#[derive(Default)]
struct Producers {
    languages: Vec<String>,
    tools: Vec<String>,
}

impl Producers {
    /// A section that cannot be read says nothing: it is a courtesy.
    fn read(&mut self, section: &wasmparser::CustomSectionReader<'_>) {
        let wasmparser::KnownCustom::Producers(fields) = section.as_known() else { return };
        for field in fields.into_iter().flatten() {
            let list = match field.name {
                "language" => &mut self.languages,
                "processed-by" => &mut self.tools,
                _ => continue,
            };
            for value in field.values.into_iter().flatten() {
                let name: String = value.name.chars().take(64).collect();
                if !list.contains(&name) && list.len() < 16 {
                    list.push(name);
                }
            }
        }
    }

    /// The languages; where none is named, what the tools suggest; empty: nothing is known.
    fn language(self) -> String {
        let by_tool = |tool: &str| self.tools.iter().any(|name| name.contains(tool));
        if by_tool("componentize-py") {
            "Python".into()
        } else if by_tool("componentize-js") || by_tool("componentize-qjs") || by_tool("ComponentizeJS") {
            "JavaScript".into()
        } else if !self.languages.is_empty() {
            self.languages.join(", ")
        } else if by_tool("rustc") {
            "Rust".into()
        } else if by_tool("Go cmd") || by_tool("TinyGo") {
            "Go".into()
        } else if by_tool("clang") {
            "C".into()
        } else {
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(inspect(bytes).unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_is_no_component_is_named() {
        check(b"PK\x03\x04", "this is not WebAssembly");
        check(b"", "this is not WebAssembly");
        check(
            b"\0asm\x01\0\0\0",
            "this is a core WebAssembly module; a rule is a component (see `watchfire rule build`)",
        );
        check(
            b"\0asm\x0d\0\x01\0",
            "the module does not export watchfire:rule/handler@0.1.0, which every rule must",
        );
        assert!(matches!(inspect(b"\0asm\x0d\0\x01\0\x0a\x99"), Err(RefusalError::Malformed(_))));
        let large = vec![0; LARGEST + 1];
        assert!(matches!(inspect(&large), Err(RefusalError::TooLarge { .. })));
    }

    #[test]
    fn versions_are_compatible_within_0_1() {
        for good in ["watchfire:rule/log@0.1.0", "watchfire:rule/log@0.1.7", "watchfire:rule/log@0.1.0-rc1"] {
            assert_eq!(contract_name(good).unwrap(), Some("log"));
        }
        assert_eq!(contract_name("wasi:cli/environment@0.2.0").unwrap(), None);
        for bad in ["watchfire:rule/log@0.2.0", "watchfire:rule/log@1.1.0", "watchfire:rule/log"] {
            assert!(contract_name(bad).is_err(), "{bad}");
        }
    }
}
