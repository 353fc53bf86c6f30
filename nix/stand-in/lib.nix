# The functions of nixpkgs' lib that our Nix code calls.
let
  letters = text: builtins.filter builtins.isString (builtins.split " " text);
in
import ./modules.nix
// rec {
  concatMapAttrs =
    each: attributes:
    builtins.foldl' (all: name: all // each name attributes.${name}) { } (
      builtins.attrNames attributes
    );

  escapeShellArg =
    word:
    let
      text = toString word;
    in
    if builtins.match "[[:alnum:],._+:@%/-]+" text == null then
      "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] text}'"
    else
      text;

  escapeShellArgs = words: builtins.concatStringsSep " " (map escapeShellArg words);

  optional = condition: value: if condition then [ value ] else [ ];

  optionalAttrs = condition: value: if condition then value else { };

  optionalString = condition: value: if condition then value else "";

  unique = builtins.foldl' (
    seen: each: if builtins.elem each seen then seen else seen ++ [ each ]
  ) [ ];

  genAttrs =
    names: value:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = value name;
      }) names
    );

  toLower = builtins.replaceStrings (letters "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z") (
    letters "a b c d e f g h i j k l m n o p q r s t u v w x y z"
  );

  licenses.bsd3.spdxId = "BSD-3-Clause";
}
