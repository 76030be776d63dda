// Swagger UI, from files of our own.

const frame = document.getElementById("swagger");
const start = () =>
  window.SwaggerUIBundle({
    url: frame.dataset.openapi,
    domNode: frame,
    deepLinking: true,
    validatorUrl: null,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    presets: [window.SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
  });
if (window.SwaggerUIBundle) start();
else window.addEventListener("DOMContentLoaded", start);
