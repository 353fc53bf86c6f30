# The module system of nixpkgs' lib, as far as nix/module uses it: options with types and defaults, conditions, merging,
# priorities and submodules. Error messages have the words of nixpkgs.
let
  inherit (builtins)
    all
    attrNames
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isString
    map
    ;

  typed = type: value: isAttrs value && value._type or null == type;
  unique = foldl' (seen: each: if elem each seen then seen else seen ++ [ each ]) [ ];
  shown = concatStringsSep ".";
  named =
    names: value:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = value name;
      }) names
    );

  mkOption = attributes: attributes // { _type = "option"; };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };

  # The names in a definition, and its definitions of one of them, without a look at any condition.
  namesIn =
    definition:
    if typed "merge" definition then
      concatMap namesIn definition.contents
    else if typed "if" definition || typed "override" definition then
      namesIn definition.content
    else
      attrNames definition;
  within =
    name: definition:
    if typed "merge" definition then
      concatMap (within name) definition.contents
    else if typed "if" definition then
      map (mkIf definition.condition) (within name definition.content)
    else if typed "override" definition then
      map (mkOverride definition.priority) (within name definition.content)
    else if definition ? ${name} then
      [ definition.${name} ]
    else
      [ ];

  # The values that hold, each with its priority.
  discharge =
    priority: definition:
    if typed "merge" definition then
      concatMap (discharge priority) definition.contents
    else if typed "if" definition then
      if definition.condition then discharge priority definition.content else [ ]
    else if typed "override" definition then
      discharge definition.priority definition.content
    else
      [
        {
          inherit priority;
          value = definition;
        }
      ];

  mergeDefinitions =
    location: type: definitions:
    let
      found = concatMap (discharge 100) definitions;
      lowest = foldl' (least: each: if each.priority < least then each.priority else least) 9999 found;
      values = map (each: each.value) (filter (each: each.priority == lowest) found);
    in
    if values == [ ] then
      throw "The option `${shown location}' was accessed but has no value defined. Try setting the option."
    else if !all type.check values then
      throw "A definition for option `${shown location}' is not of type `${type.description}'."
    else
      type.merge location values;

  evaluate =
    location: options: definitions:
    let
      unknown = filter (name: !options ? ${name}) (concatMap namesIn definitions);
      one =
        name:
        let
          here = location ++ [ name ];
          option = options.${name};
          inside = concatMap (within name) definitions;
          default = if option ? default then [ (mkOverride 1500 option.default) ] else [ ];
          value = mergeDefinitions here option.type (inside ++ default);
        in
        if typed "option" option then (option.apply or (same: same)) value else evaluate here option inside;
    in
    if unknown == [ ] then
      named (attrNames options) one
    else
      throw "The option `${shown (location ++ [ (head unknown) ])}' does not exist.";

  deep =
    left: right:
    if isAttrs left && isAttrs right && !left ? outPath then
      left
      // builtins.mapAttrs (name: value: if left ? ${name} then deep left.${name} value else value) right
    else if isList left && isList right then
      left ++ right
    else if left == right then
      left
    else
      throw "The stand-in cannot merge ${builtins.toJSON left} and ${builtins.toJSON right}.";

  # Conditions and priorities at any depth of a value.
  settled =
    value:
    if typed "if" value || typed "merge" value || typed "override" value then
      mergeDefinitions [ ] anything [ value ]
    else if isAttrs value && !value ? outPath then
      builtins.listToAttrs (
        concatMap (
          name:
          if concatMap (discharge 100) [ value.${name} ] == [ ] then
            [ ]
          else
            [
              {
                inherit name;
                value = settled value.${name};
              }
            ]
        ) (attrNames value)
      )
    else
      value;

  scalar = description: check: {
    inherit description check;
    merge =
      location: values:
      if all (value: value == head values) values then
        head values
      else
        throw "The option `${shown location}' has conflicting definition values.";
  };
  anything = {
    description = "anything";
    check = _: true;
    merge = _: values: foldl' deep (settled (head values)) (map settled (builtins.tail values));
  };

  types = rec {
    inherit anything;
    bool = scalar "boolean" isBool;
    int = scalar "signed integer" isInt;
    str = scalar "string" isString;
    package = scalar "package" (value: value ? outPath);
    path = scalar "absolute path" (
      value:
      builtins.isPath value || value ? outPath || isString value && builtins.match "/.*" value != null
    );
    port = scalar "16 bit unsigned integer; between 0 and 65535 (both inclusive)" (
      value: isInt value && value >= 0 && value <= 65535
    );
    ints.positive = scalar "positive integer, meaning >0" (value: isInt value && value > 0);
    enum = values: scalar "one of ${builtins.toJSON values}" (value: elem value values);
    nullOr = type: {
      description = "null or ${type.description}";
      check = value: value == null || type.check value;
      merge =
        location: values: if all (value: value == null) values then null else type.merge location values;
    };
    listOf = type: {
      description = "list of ${type.description}";
      check = isList;
      merge =
        location: values: map (value: mergeDefinitions location type [ value ]) (concatLists values);
    };
    attrsOf = type: {
      description = "attribute set of ${type.description}";
      check = isAttrs;
      merge =
        location: values:
        let
          inside = name: concatMap (within name) values;
          present = filter (name: concatMap (discharge 100) (inside name) != [ ]) (
            unique (concatMap namesIn values)
          );
        in
        named present (name: mergeDefinitions (location ++ [ name ]) type (inside name));
    };
    submodule = module: {
      description = "submodule";
      check = isAttrs;
      merge =
        location: values:
        evaluate location
          (
            if isFunction module then
              module {
                name = builtins.elemAt location (builtins.length location - 1);
              }
            else
              module
          ).options
          values;
    };
  };
in
{
  inherit
    mkOption
    mkIf
    mkMerge
    types
    ;
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      description = "Whether to enable ${what}.";
    };
  literalExpression = text: text;

  evalModules =
    {
      modules,
      specialArgs ? { },
    }:
    let
      load =
        module:
        let
          content = if builtins.isPath module || isString module then import module else module;
          loaded = if isFunction content then content (specialArgs // { inherit config; }) else content;
          plain = loaded ? options || loaded ? config;
        in
        concatMap load (loaded.imports or [ ])
        ++ [
          {
            options = loaded.options or { };
            config = if plain then loaded.config or { } else removeAttrs loaded [ "imports" ];
          }
        ];
      loaded = concatMap load modules;
      config = evaluate [ ] (foldl' deep { } (map (each: each.options) loaded)) (
        map (each: each.config) loaded
      );
    in
    {
      inherit config;
    };
}
