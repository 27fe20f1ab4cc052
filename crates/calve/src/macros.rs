//! What the declarations of many public types have in common.

/// Defines an enum whose variants have names in messages and in JSON, and `as_str`, which gives
/// them. A variant stands beside its name, so none can be without. With `listed:` before it, the
/// enum also has `ALL`.
macro_rules! named {
    (
        listed:
        $(#[$meta:meta])*
        pub enum $type:ident {
            $($(#[$about:meta])* $variant:ident = $name:literal,)+
        }
    ) => {
        named! {
            $(#[$meta])*
            pub enum $type {
                $($(#[$about])* $variant = $name,)+
            }
        }

        impl $type {
            /// All variants, in the order of their definition.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)+];
        }
    };
    (
        $(#[$meta:meta])*
        pub enum $type:ident {
            $($(#[$about:meta])* $variant:ident = $name:literal,)+
        }
    ) => {
        $(#[$meta])*
        pub enum $type {
            $($(#[$about])* $variant,)+
        }

        impl $type {
            /// The name, as messages and JSON documents have it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

/// The methods of an options type: `new`, if it has that, and those that each set one field: to what
/// they are given, or to the expression that stands behind the type.
macro_rules! setters {
    (@ $field:ident) => {
        $field
    };
    (@ $field:ident $value:expr) => {
        $value
    };
    ($options:ident: $(#[$meta:meta])* pub fn new(), $($setters:tt)*) => {
        impl $options {
            $(#[$meta])*
            #[must_use]
            pub fn new() -> Self {
                Self::default()
            }
        }

        setters! { $options: $($setters)* }
    };
    ($options:ident: $($(#[$meta:meta])* $vis:vis $field:ident: $type:ty $(= $value:expr)?,)*) => {
        impl $options {
            $(
                $(#[$meta])*
                #[must_use]
                $vis fn $field(mut self, $field: $type) -> Self {
                    self.$field = setters!(@ $field $($value)?);
                    self
                }
            )*
        }
    };
}

pub(crate) use {named, setters};
